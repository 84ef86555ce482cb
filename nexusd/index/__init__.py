"""The vector index: one protocol, its implementations. Knows no table and no text."""
