#!/usr/bin/env bash
# Every check of the project: ruff, mypy, pytest. Arguments go to pytest, such as: bash launcher/test.sh -k parity
# `bash launcher/test.sh fast` leaves out the tests that start runs, ranks, hosts and a browser, and takes two minutes:
# the answer for a change to anything but parallelism, launching and the watch over ranks. More arguments may follow.
set -euo pipefail
extra=dev
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

slow=(tests/launcher tests/parallel tests/watch
    tests/report/test_browser.py tests/sweeps/test_sweep_command.py tests/test_package.py)
if [ "${1:-}" = fast ]; then
    set -- "${slow[@]/#/--ignore=}" "${@:2}"
fi

ruff check .
ruff format --check --quiet . || { echo "run: ruff format ." >&2; exit 1; }
mypy
exec pytest "$@"
