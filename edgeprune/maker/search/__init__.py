"""A search for the model that reaches its targets: what is asked, what is tried, and what comes out."""
