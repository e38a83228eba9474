"""The board's side: standard library only, Python 3.11 or newer, no edgekit.

The sources of these modules are sent over stdin and run there; see :data:`MODULES` for the order.
Every value from outside comes as JSON over stdin too, so none is ever part of a shell's line. Each
request is one that may be repeated after a broken connection.
"""

MODULES = ("channel", "files", "look", "environment", "agent", "activate", "main")
