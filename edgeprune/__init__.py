"""edgeprune: prune, quantize and convert Keras models, with an honest account of download and latency."""
