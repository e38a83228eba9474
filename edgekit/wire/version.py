"""The version of edgekit: one place, which the device's parts may import."""

VERSION = "0.1.0"
