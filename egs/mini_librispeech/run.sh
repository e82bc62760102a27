#!/usr/bin/env bash
# Mini LibriSpeech: five hours of train-clean-5, scored on the official test-clean. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=mini_librispeech
corpus_dir=
config=$recipe_dir/conf/conformer.yaml
processes=2
source "$recipe_dir/../../tools/recipe.sh"
