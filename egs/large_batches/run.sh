#!/usr/bin/env bash
# Synchronous and decentralized SGD with large batches (Zhang et al. 2021, arXiv 2112.01433) on CIFAR-10 or on
# frames of speech.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
study=large_batches
data_dir=$recipe_dir/../cifar10/data
[ -d "$data_dir" ] || data_dir=$recipe_dir/../../../shared/data/cifar10
command=(study large_batches --data-dir "$data_dir")
more_options="  --data-dir DIR    CIFAR-10, or what asrkit align --frames wrote ($data_dir)"
source "$recipe_dir/../../tools/study.sh"
