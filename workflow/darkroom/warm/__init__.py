"""The warm engine: one server process a model and device, started by the first job that needs it."""
