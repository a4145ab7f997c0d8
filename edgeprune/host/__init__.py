"""What this machine gives: signals, outputs that appear whole, progress, TOML."""
