#!/usr/bin/env bash
# Starts one Dask worker for `his4mae segment`, on one GPU:
#
#     launch/dask_worker.sh tcp://HOST:8786
#     launch/dask_worker.sh --scheduler-file=FILE
#
# Where SLURM starts several on a node, each takes a GPU of its own. PYTHON names another interpreter than python3, and
# DASK_INTERFACE the network interface. With JAX_PLATFORMS=cpu it works without a GPU.
set -euo pipefail
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
if [[ -n ${SLURM_LOCALID:-} && ${#gpus[@]} -ne 1 ]]; then
    export CUDA_VISIBLE_DEVICES=${gpus[SLURM_LOCALID]:-$SLURM_LOCALID}
fi
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} # JAX would compute on the CPU rather than say that it has no GPU
export DASK_LOGGING__DISTRIBUTED=${DASK_LOGGING__DISTRIBUTED:-warning}
# Two threads: one tile is read or written while the GPU has another. What tiles take is bounded by segment.tile: Dask need
# not watch the memory.
exec "${PYTHON:-python3}" -m dask worker "$@" --nworkers=1 --nthreads=2 --memory-limit=0 --no-dashboard \
    --death-timeout=300 ${DASK_INTERFACE:+"--interface=$DASK_INTERFACE"}
