"""What makes and checks generated files; not part of the package."""
