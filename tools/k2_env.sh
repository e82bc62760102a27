#!/usr/bin/env bash
# Makes .venv-k2, an environment with k2, if there is none: PyPI's newest k2 wheels for Linux need torch 1.13.1 and
# Python 3.11. (For your own torch, tools/install_k2.sh.) Prints nothing if the environment is ready.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
env=.venv-k2
[ -f "$env/.ready" ] && exit 0
python=${PYTHON_K2:-python3.11}
command -v "$python" >/dev/null || {
  echo "k2_env: needs Python 3.11 ($python was not found); set PYTHON_K2=<python 3.11>" >&2
  exit 3
}
echo "k2_env: installing torch 1.13.1 and k2 1.23.4 into $PWD/$env (once, a few minutes)" >&2
[ -x "$env/bin/python" ] || "$python" -m venv "$env"
pip=("$env/bin/python" -m pip install --quiet --disable-pip-version-check)
# The CUDA libraries that torch 1.13.1 lists are not needed on a CPU, but its wheel loads them.
"${pip[@]}" 'torch==1.13.1' 'numpy<2' 'pytest>=8' setuptools
requirement=$(mktemp)
trap 'rm -f "$requirement"' EXIT
# The hash picks the wheel for Python 3.11, whose tag is broken.
echo 'k2==1.23.4 --hash=sha256:5b5f709b12b9cd092b583984d0b7d940c9f898101259c998d68d1f4adefa48d4' > "$requirement"
"${pip[@]}" --no-deps --require-hashes -r "$requirement"
touch "$env/.ready"
