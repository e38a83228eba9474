"""Ingest: what devices say, into the store, once each, and then acknowledged."""
