#!/usr/bin/env bash
# Runs tests/k2, the comparisons with k2, in an environment of their own. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/k2_env.sh
# That environment has torch and k2 alone, so the settings and fixtures of the main suite stay out.
exec .venv-k2/bin/python -m pytest -q -c /dev/null --rootdir "$PWD" --confcutdir tests/k2 -p no:cacheprovider "$@" tests/k2
