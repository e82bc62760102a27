#!/usr/bin/env bash
# Runs each recipe of the papers' corpora from stage 1 to the last on a release of a few utterances in the corpus' layout.
# Arguments are names of recipes (all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
recipes=("$@")
[ $# -gt 0 ] || recipes=(swb300 swb2000 malach librispeech tedlium2 csj)
for recipe in "${recipes[@]}"; do
  echo "== $recipe"
  started=$SECONDS
  "egs/$recipe/run.sh" --miniature
  echo "== $recipe: $((SECONDS - started)) s"
done
