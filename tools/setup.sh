#!/usr/bin/env bash
# Makes .venv at the top of the project, if there is none, and installs asrkit with its development tools.
# Safe to run again: if neither pyproject.toml nor the compiled sources have changed, it returns at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/.asrkit-installed
installed() { cat pyproject.toml setup.py asrkit/quantization/kernels/*.c; }
if [ -f "$stamp" ] && installed | cmp -s - "$stamp"; then
  exit 0
fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "setup: asrkit needs Python 3.10 or newer; $python is $("$python" --version 2>&1). Set PYTHON=<newer python>." >&2
  exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "setup: installing asrkit into $PWD/.venv (once, a few minutes)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
.venv/bin/python -c 'import torchaudio' || {
  echo "setup: torch and torchaudio do not match; remove .venv and run this again" >&2
  exit 2
}
installed > "$stamp"
echo "setup: done" >&2
