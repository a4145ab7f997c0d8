"""Latency: `estimate` from a device profile, `measure` as a paired comparison on this host."""
