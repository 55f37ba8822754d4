#!/usr/bin/env bash
# Every check of the project: ruff, mypy, pytest. Arguments go to pytest, such as: bash launcher/test.sh -k parity
set -euo pipefail
extra=dev
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check --quiet . || { echo "run: ruff format ." >&2; exit 1; }
mypy
exec pytest "$@"
