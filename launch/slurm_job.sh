#!/usr/bin/env bash
# What a job of launch/slurm.sh does on the first of its nodes: CONFIG WORKDIR [FLAG ...]
set -euo pipefail
trap : TERM USR1 # they are meant for the processes of srun; we wait for what those say

status=0
srun --kill-on-bad-exit=1 "${PYTHON:?}" -m his4mae_jax.main \
    "--config=$1" "--workdir=$2" --config.train.require_accelerator=True "${@:3}" || status=$?
if [[ $status -eq 75 ]]; then # told to stop, and everything is saved
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
