#!/usr/bin/env bash
# The Corpus of Spontaneous Japanese from audio to CER. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=csj
corpus_dir=
config=$recipe_dir/conf/conformer.yaml
splits=(dev eval1 eval2 eval3)
processes=1
source "$recipe_dir/../../tools/recipe.sh"
