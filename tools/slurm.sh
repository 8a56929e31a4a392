#!/usr/bin/env bash
# A training under Slurm that queues itself again until it is complete.
#
#     sbatch tools/slurm.sh pretrain configs/base.yaml data.train=DIR run.dir=runs/base
#     sbatch --nodes=1 tools/slurm.sh finetune configs/asr.yaml pretrained=runs/base ...
#
# Five minutes before the time is up, Slurm signals the ranks; they finish the update, save, and end with 138. Where a
# site does not allow --signal, run.max_hours a little under --time does the same with 75. Both are queued again here.
# A pre-empted job is queued again by Slurm, for --requeue; one that was cancelled or met an error is not.
#
# One task for each GPU, all of a node's GPUs visible to each of its tasks (so not --gpus-per-task).
#SBATCH --job-name=mixvec
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts%%$'\n'*} MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) WORLD_SIZE=$SLURM_NTASKS
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Slurm signals a step's tasks and not their children, so each rank is a task itself: torchrun in between would die of
# SIGUSR1 and leave its ranks behind. It would also end with 1 for any code of theirs; srun ends with the highest.
# The ranks leave together; --wait ends those whose peer has failed, after a minute in which it is heard.
code=0
# shellcheck disable=SC2016  # each task's own variables
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=60 \
    bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python -m "$@"' rank "$@" || code=$?

case $code in
    138 | 75) scontrol requeue "$SLURM_JOB_ID" ;;
    *) exit "$code" ;;
esac
