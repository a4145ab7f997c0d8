"""Latency: estimated from a device profile, calibrated by a user's measurements, or measured as a pair on this host."""
