#!/bin/sh
# Print the Python that makes .venv: the first of 3.11 to 3.13 with the venv module, else any newer.
# Prints nothing but a message on stderr where there is none.
found=
usable() {
    # Shims (pyenv) exist for versions that do not run: ask, do not trust the name.
    "$1" -c "import sys, venv; sys.exit(not $2)" >/dev/null 2>&1
}
for wanted in "(3, 11) <= sys.version_info < (3, 14)" "sys.version_info >= (3, 14)"; do
    for name in python3 python3.11 python3.12 python3.13 python3.14 python; do
        if usable "$name" "$wanted"; then
            # An activated .venv must not make itself: name the Python that it came from.
            "$name" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)'
            exit 0
        fi
    done
done
for name in python3 python; do
    found=${found:-$("$name" --version 2>/dev/null)}
done
echo "error: edgekit needs Python 3.11 or newer; found here: ${found:-none}" >&2
echo "  hint: install one (Debian family: apt-get install python3 python3-venv), or name it:" >&2
echo "        make PYTHON=/path/to/python3.12" >&2
exit 1
