#!/usr/bin/env bash
# MALACH's English interviews from audio to WER. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=malach
corpus_dir=
config=$recipe_dir/conf/conformer.yaml
processes=1
source "$recipe_dir/../../tools/recipe.sh"
