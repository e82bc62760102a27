#!/usr/bin/env bash
# Synchronous and decentralized SGD with large batches (Zhang et al. 2021, arXiv 2112.01433) on CIFAR-10.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
study=large_batches
data_dir=$recipe_dir/../cifar10/data
[ -d "$data_dir" ] || data_dir=$recipe_dir/../../../shared/data/cifar10
command=(study large_batches --data-dir "$data_dir")
more_options="  --data-dir DIR    CIFAR-10: cifar-10-batches-py, or train.zip and test.zip ($data_dir)"
source "$recipe_dir/../../tools/study.sh"
