#!/usr/bin/env bash
# Checks that this tree computes what an earlier commit computed: tools/compare_commits.sh COMMIT [MODEL DATA_DIR]
# Trains tiny models at both (float32; each encoder, characters and BPE, one process and two; a language model), resumes
# the earlier commit's trainings here and decodes with its models, and compares weights bit for bit and hypotheses.
# With MODEL, a recognizer of the earlier commit, both also decode the test split of DATA_DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -eq 1 ] || [ $# -eq 3 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
tools/setup.sh
work=$(mktemp -d)
trap 'git worktree remove --force "$work/earlier" > /dev/null 2>&1 || true; rm -rf "$work"' EXIT
git worktree add --detach --force "$work/earlier" "$1" > /dev/null
.venv/bin/python tools/compare_commits.py "$work/earlier" "$PWD" "$work/out" "${@:2}"
