#!/usr/bin/env bash
# Trains on several machines: run it on each, with the same arguments and its own --node.
#   tools/launch/torchrun.sh --nodes 2 --node 0 --master host0 -- --data-dir DIR --exp-dir DIR --config FILE [key=value ...]
# All must see DATA_DIR and EXP_DIR in the same place. With train.parallel=ddp or dpsgd a lost process ends all, and
# the same command resumes. For learners that can be lost one by one, start them with slurm.sh or asrkit train
# --processes: torchrun ends all processes of a machine when one is lost.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
nodes=1 node=0 master=127.0.0.1 port=29500 per_node=
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --nodes) nodes=$2; shift 2 ;;
    --node) node=$2; shift 2 ;;
    --master) master=$2; shift 2 ;;
    --port) port=$2; shift 2 ;;
    --processes) per_node=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "$0: unknown option '$1'" >&2; exit 2 ;;
  esac
done
if [ -z "$per_node" ]; then  # one for each GPU, else one for all cores
  per_node=$("$root/.venv/bin/python" -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi
exec "$root/.venv/bin/torchrun" --nnodes "$nodes" --node-rank "$node" --nproc-per-node "$per_node" \
  --master-addr "$master" --master-port "$port" -m asrkit train "$@"
