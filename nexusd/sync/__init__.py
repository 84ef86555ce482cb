"""What keeps the index true to the rows: the outbox worker, the breakers, the reconciliation."""
