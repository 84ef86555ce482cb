"""nexusctl: nexusd from a shell. A client like any other; knows nothing of the daemon's inside."""
