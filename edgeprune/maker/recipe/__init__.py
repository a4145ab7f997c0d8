"""A recipe: read, checked, and run."""
