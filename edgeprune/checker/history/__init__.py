"""The history of a project's model files: what a check found at each commit, and what changed from one to the next."""
