#!/usr/bin/env bash
# Soft random sampling (Cui et al. 2023, arXiv 2311.12727) on CIFAR-10: all methods, figures and claims.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
study=cifar10
data_dir=$recipe_dir/data
[ -d "$data_dir" ] || data_dir=$recipe_dir/../../../shared/data/cifar10
command=(study cifar10 --data-dir "$data_dir")
more_options="  --data-dir DIR    CIFAR-10: cifar-10-batches-py, or train.zip and test.zip ($data_dir)"
source "$recipe_dir/../../tools/study.sh"
