#!/usr/bin/env bash
#SBATCH --job-name=asrkit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --no-kill
# Trains on the machines of a SLURM job, one learner per task:
#   sbatch tools/launch/slurm.sh --data-dir DIR --exp-dir DIR --config FILE [key=value ...]
# With train.parallel=adpsgd a killed task is restarted, up to ten times, and rejoins the others; task 0 is the exception,
# because it holds what they share. With ddp and dpsgd, losing one task ends all, and the same command resumes.
set -euo pipefail
root=${ASRKIT_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}  # sbatch runs a copy: set ASRKIT_ROOT there
if [ -z "${SLURM_PROCID:-}" ] || [ "${1:-}" != --task ]; then
  MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  export ASRKIT_ROOT=$root MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500}
  exec srun --kill-on-bad-exit=0 bash "$root/tools/launch/slurm.sh" --task "$@"
fi
shift
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=${SLURM_LOCALID:-0}
[ -z "${SLURM_GPUS_PER_TASK:-}" ] || export LOCAL_RANK=0  # a task sees only its own GPU
for start in 1 2 3 4 5 6 7 8 9 10; do
  code=0
  "$root/.venv/bin/asrkit" train "$@" || code=$?
  # 75 and signals: lost to the others. All other codes say what is wrong, or that all is done.
  [ "$code" = 75 ] || [ "$code" -gt 128 ] || exit "$code"
  [ "$code" != 130 ] && [ "$code" != 143 ] && [ "$RANK" != 0 ] || exit "$code"
  echo "task $RANK was lost (code $code); start $((start + 1))" >&2
done
exit "$code"
