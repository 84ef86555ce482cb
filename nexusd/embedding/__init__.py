"""Text to vectors: one protocol, its implementations. Knows no table and no index."""
