"""Serving over HTTP: the Open Inference Protocol v2, ``POST /infer/NAME``, metrics, a live page."""
