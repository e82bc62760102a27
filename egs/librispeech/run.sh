#!/usr/bin/env bash
# LibriSpeech's train-clean-100, scored on test-clean; with --unlabelled librispeech_860, train-clean-360 and
# train-other-500 are used without their transcripts. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=librispeech_100
corpus_dir=
config=$recipe_dir/conf/conformer_100.yaml
processes=2
source "$recipe_dir/../../tools/recipe.sh"
