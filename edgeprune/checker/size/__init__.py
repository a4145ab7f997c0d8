"""Account a model's bytes: raw, and as each codec would have it downloaded."""
