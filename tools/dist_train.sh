#!/usr/bin/env bash
# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
# Trains with several processes, one a GPU; without GPUs, on the CPU.
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment of each.
set -eu
if [ $# -lt 2 ] || ! [ "$2" -gt 0 ] 2>/dev/null; then
    echo "usage: $0 CONFIG PROCESSES [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
# How long processes may save after a signal; torchrun would kill them after half a minute.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
exec python -m torch.distributed.run \
    --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$processes" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
