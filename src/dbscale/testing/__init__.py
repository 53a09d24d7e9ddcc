"""The pytest plugin and the migration checks a user runs in CI."""
