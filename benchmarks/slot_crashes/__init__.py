"""What the benchmark of slots and their tests share: disks that fail, and a device's whole life."""
