#!/usr/bin/env bash
# Runs each recipe of the papers' corpora from stage 1 to the last on a few utterances in the corpus' layout.
# Arguments are recipes, with or without a configuration: swb300 swb300/blstm (default: all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
recipes=("$@")
[ $# -gt 0 ] || recipes=(swb300 swb300/blstm_lp swb2000 malach malach/dssformer librispeech tedlium2 csj)
for recipe in "${recipes[@]}"; do
  echo "== $recipe"
  started=$SECONDS
  config=()
  [[ $recipe != */* ]] || config=(--config "egs/${recipe%/*}/conf/${recipe#*/}.yaml")
  "egs/${recipe%/*}/run.sh" --miniature ${config[@]+"${config[@]}"}
  echo "== $recipe: $((SECONDS - started)) s"
done
