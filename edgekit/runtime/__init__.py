"""The shared arithmetic of host and device: pre- and post-processing, sessions, golden samples."""
