"""SQLite, the truth: one writer, readers, migrations, and a module of queries per table group."""
