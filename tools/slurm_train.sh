#!/usr/bin/env bash
# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
# Trains as a job of Slurm, which is asked to end it five minutes early: the run then saves a
# checkpoint, and the same command with --resume goes on from it.
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS in the environment change the job.
set -eu
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB CONFIG WORK_DIR [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS are several words
exec srun --partition "$partition" --job-name "$job" --signal TERM@300 \
    --ntasks "$gpus" --ntasks-per-node "$per_node" --gres "gpu:$per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit 1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@"
