"""How an application connects: pools, replicas, read-your-writes, sessions."""
