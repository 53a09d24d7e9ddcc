"""Servers, databases and a bad network, as fixtures."""

pytest_plugins = ["fix_postgres", "fix_proxy", "fix_marketplace", "fix_sqld"]
