#!/usr/bin/env bash
# Every check of the project: ruff, mypy, pytest. Arguments go to pytest, such as: bash launcher/test.sh -k parity
# `bash launcher/test.sh fast` leaves out the tests that start runs, ranks, hosts and a browser, and takes two minutes:
# the answer for a change to anything but parallelism, launching and the watch over ranks. More arguments may follow.
set -euo pipefail
extra=dev
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

hosts=tests/launcher   # which waits for hosts and launchers, most of its time
ranks=tests/parallel   # which starts ranks
timed=tests/watch      # which goes by seconds without a sign of life
slow=($hosts $ranks $timed tests/experiments
    tests/report/test_browser.py tests/sweeps/test_sweep_command.py tests/test_package.py)

ruff check .
ruff format --check --quiet . || { echo "run: ruff format ." >&2; exit 1; }
if [ $# -gt 0 ]; then
    [ "$1" != fast ] || set -- "${slow[@]/#/--ignore=}" "${@:2}"
    mypy
    exec pytest "$@"
fi

# Without arguments: mypy, the tests of hosts and those of ranks run beside the others, and are shown after them. The
# tests of the watch come last, with nothing beside them: a busy machine looks to them like one that hangs.
beside=$(mktemp -d)
jobs=()
trap 'kill "${jobs[@]}" 2>/dev/null || true; rm -rf "$beside"' EXIT
run_beside() { # NAME COMMAND...
    "${@:2}" >"$beside/$1" 2>&1 &
    jobs+=($!)
}
run_beside 1-mypy mypy
run_beside 2-ranks pytest -p no:cacheprovider $ranks
run_beside 3-hosts pytest -p no:cacheprovider $hosts
status=0
pytest --ignore=$hosts --ignore=$ranks --ignore=$timed || status=$?
for job in "${jobs[@]}"; do
    wait "$job" || status=$?
done
cat "$beside"/*
pytest $timed || status=$?
exit $status
