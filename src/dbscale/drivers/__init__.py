"""The only modules that open connections: SQLite, libSQL, PostgreSQL, and embedded servers."""
