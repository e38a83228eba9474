"""Alerts: rules over what the store knows, one pure machine, channels that tell people."""
