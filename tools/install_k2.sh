#!/usr/bin/env bash
# Prints the command that installs the k2 wheel built for the torch in .venv, and runs it with --run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || { echo "install_k2: run tools/setup.sh first" >&2; exit 2; }
page=$("$python" -c 'import torch; print("cuda" if torch.version.cuda and torch.cuda.is_available() else "cpu")')
version=$("$python" -c 'import torch; print(torch.__version__.split("+")[0])')
command=("$python" -m pip install --only-binary :all: k2 "torch==$version" --find-links "https://k2-fsa.github.io/k2/$page.html")
echo "# k2 for torch $version ($page)"
echo "${command[*]}"
if [ "${1:-}" = --run ]; then
  "${command[@]}"
fi
