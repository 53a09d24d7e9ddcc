"""Maps, routing, and the targets a map is applied to."""
