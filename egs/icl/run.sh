#!/usr/bin/env bash
# In-context learning of one transformer layer (Li et al. 2024, arXiv 2402.15607): all experiments and figures.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
study=icl
source "$recipe_dir/../../tools/study.sh"
