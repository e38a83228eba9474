"""The shared words: errors, measurements, manifests. Standard library and the signing library."""
