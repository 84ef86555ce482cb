"""Bytes <-> requests: listeners, connections, auth, dispatch, discovery. Knows no resource."""
