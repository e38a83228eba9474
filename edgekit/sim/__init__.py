"""Simulated devices: the agent's real state machines with a fake runner, by the thousand."""
