"""Channel pruning: which channels belong together, which go, and the surgery."""
