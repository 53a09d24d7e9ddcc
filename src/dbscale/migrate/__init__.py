"""SQLite or Turso into PostgreSQL: profile, types, dialect, encode, plan, verify."""
