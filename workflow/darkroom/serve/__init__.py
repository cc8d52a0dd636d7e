"""HTTP in front of an engine: thin adapters over `Engine.render`."""
