#!/bin/sh
# Prints the interpreter to build the virtual environment with: the system's, else the first suitable one on the PATH.
# PYTHON=... in the environment decides instead. Ends with 1, and says what is allowed, where none is suitable.
set -eu

suitable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    if suitable "$PYTHON"; then
        command -v "$PYTHON"
        exit 0
    fi
    echo "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13" >&2
    exit 1
fi
# The system's first: its headers come from a package, and no version manager can take it away.
for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && suitable "$candidate"; then
        command -v "$candidate"
        exit 0
    fi
done
echo "No Python 3.11, 3.12 or 3.13 found (on Debian 12 and Ubuntu 24.04: apt-get install python3)" >&2
exit 1
