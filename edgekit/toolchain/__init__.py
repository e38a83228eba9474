"""From a model and a target to a signed bundle. Runs on a workstation or in CI."""
