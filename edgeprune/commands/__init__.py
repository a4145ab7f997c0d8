"""The verbs of the command line, one file each: its options and what it does."""
