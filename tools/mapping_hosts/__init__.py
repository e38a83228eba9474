"""The hosts that the agent's mappings are tried against: parts of ``make check-mappings``."""
