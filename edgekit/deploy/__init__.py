"""Putting an agent onto a board that already runs, over the system's ssh.

Decisions (:mod:`.decide`, :mod:`.settings`) are pure; :mod:`.steps` takes them one after the other;
:mod:`.ssh` carries requests; :mod:`.board` is what is sent over and runs there. It meets the agent
in :mod:`edgekit.wire` alone: on the board, it is the new environment's own edgekit that tests a
bundle and installs a service.
"""
