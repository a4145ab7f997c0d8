"""Where samples come from, and how their rows are taken."""
