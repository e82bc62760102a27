#!/usr/bin/env bash
# TED-LIUM release 2 from audio to WER. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=tedlium2
corpus_dir=
config=$recipe_dir/conf/conformer.yaml
processes=1
source "$recipe_dir/../../tools/recipe.sh"
