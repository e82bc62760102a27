#!/usr/bin/env bash
# In-context learning of one transformer layer (Li et al. 2024, arXiv 2402.15607): all experiments and figures.
#   egs/icl/run.sh [--out-dir DIR] [--full]
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$recipe_dir/../.." && pwd)
out_dir=$recipe_dir/exp
options=()
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) sed -n '2,3p' "$0"; exit 0 ;;
    --out-dir) [ $# -ge 2 ] || { echo "$0: --out-dir needs a value" >&2; exit 2; }; out_dir=$2; shift 2 ;;
    --full) options+=(--full); shift ;;
    *) echo "$0: unknown option '$1'" >&2; exit 2 ;;
  esac
done
"$root/tools/setup.sh"
exec "$root/.venv/bin/asrkit" study icl --out-dir "$out_dir" ${options[@]+"${options[@]}"}
