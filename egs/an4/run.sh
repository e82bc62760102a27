#!/usr/bin/env bash
# AN4 from audio to WER. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=an4
corpus_dir=$recipe_dir/corpus
config=$recipe_dir/conf/conformer.yaml
processes=2
source "$recipe_dir/../../tools/recipe.sh"
