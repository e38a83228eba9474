"""The shared words: errors, measurements, manifests, messages. Standard library and the signing library only."""
