"""App bundles, and the models inside them."""
