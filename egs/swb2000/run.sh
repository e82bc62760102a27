#!/usr/bin/env bash
# Switchboard, Fisher and CallHome, 2,000 hours, from audio to WER on Hub5'00, Hub5'01 and RT'03. --help lists stages and options.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus=swb2000
corpus_dir=
config=$recipe_dir/conf/conformer.yaml
processes=1
source "$recipe_dir/../../tools/hub5.sh"
source "$recipe_dir/../../tools/recipe.sh"
