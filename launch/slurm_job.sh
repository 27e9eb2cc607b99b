#!/usr/bin/env bash
# What a job of launch/slurm.sh does on the first of its nodes: CONFIG WORKDIR [FLAG ...]
set -euo pipefail
source launch/lib.sh

status=0
if by_dask "${@:3}"; then
    file=$2/scheduler-$SLURM_JOB_ID.json
    mkdir -p -- "$2"
    rm -f -- "$file"
    srun launch/dask_worker.sh "--scheduler-file=$file" & # waits for the file; one for each GPU
    workers=$!
    segment_by_dask "$file" 0 "$@"
    kill "$workers" 2>/dev/null || :
    wait "$workers" || :
else
    trap : TERM USR1 # they are meant for the processes of srun; we wait for what those say
    srun --kill-on-bad-exit=1 "${PYTHON:?}" -m his4mae_jax.main \
        "--config=$1" "--workdir=$2" --config.train.require_accelerator=True "${@:3}" || status=$?
fi
if [[ $status -eq 75 ]]; then # told to stop, and everything is saved
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
