"""The commands, one file each. A module here with a ``command`` is a command of its file's name."""
