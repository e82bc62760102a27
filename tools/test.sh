#!/usr/bin/env bash
# Sets up the environment, then checks style and types and runs the tests, one file per core with one thread each.
# Arguments go to pytest; -n 0 runs all in one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} exec .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
