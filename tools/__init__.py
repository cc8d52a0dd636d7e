"""What makes and checks generated files: JSON Schemas, the reference pages, the lock files. Not part of the package."""
