"""`edgeprune pack`: a .tflite file, smaller to download, as a file or in an archive, proved before it is kept."""
