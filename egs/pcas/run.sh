#!/usr/bin/env bash
# Context-aware passage retrieval (after Wan et al. 2023, arXiv 2308.13760): data, systems, tables and figures.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
study=pcas
command=(pcas)
more_options="  --data-dir DIR    your own passages.jsonl and questions.jsonl
  --config FILE     retrievers and systems ($recipe_dir/conf/pcas.yaml)
  key=value         overrides of the configuration, such as retrievers.MiniLM.index=hnsw"
source "$recipe_dir/../../tools/study.sh"
