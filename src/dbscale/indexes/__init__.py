"""Which indexes, on what evidence, proven how."""
