"""What makes the generated files of the repository: JSON Schemas and the reference pages. Not part of the package."""
