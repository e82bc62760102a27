#!/usr/bin/env bash
# Chain of thought of one attention layer (Li et al. 2025, arXiv 2410.02167): all experiments and figures.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
study=cot
source "$recipe_dir/../../tools/study.sh"
