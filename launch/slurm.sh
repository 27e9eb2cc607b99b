#!/usr/bin/env bash
# Submits one config to SLURM: one process a node, which drives all GPUs of the node.
#
#     launch/slurm.sh [--dry-run] [--nodes=1] [--gpus=8] [--time=24:00:00] CONFIG WORKDIR [FLAG ...]
#
# --gpus is the number of GPUs of each node. Account, partition and the like are given as sbatch's own variables:
# SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS. PYTHON names the interpreter (.venv/bin/python by default), on a file
# system that all nodes share, as do CONFIG, WORKDIR and the data. FLAGs go to the program as they are. --dry-run prints
# the commands and runs none.
#
# With --mode=segment among the FLAGs the job starts a Dask scheduler, and one worker for each GPU, in place of that one
# process a node.
#
# Two minutes before the time limit, and when the job is preempted, the run saves and is queued again by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/lib.sh

usage='usage: launch/slurm.sh [--dry-run] [--nodes=N] [--gpus=N] [--time=T] CONFIG WORKDIR [FLAG ...]'
nodes=1 gpus=8 time=24:00:00
read_options "nodes gpus time" "$@"
set -- "${words[@]}"
need_config "$1"
for number in "$nodes" "$gpus"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || fail "--nodes and --gpus are whole numbers above 0, not '$number'"
done
export PYTHON=${PYTHON:-.venv/bin/python}
tasks=1 signal=USR1@120
if by_dask "${@:3}"; then
    tasks=$gpus signal=B:USR1@120 # to the job itself, where the command runs; workers need not know
fi
[[ ! $2 =~ ^(gs|s3):// ]] || fail "WORKDIR $2: the log of a job is a file; give a folder that all nodes share"
need sbatch "run this on a login node of the cluster"
[[ $dry_run == yes ]] || command -v "$PYTHON" >/dev/null ||
    fail "$PYTHON: no such interpreter; install the package (README.md), or name one as PYTHON=..."
run mkdir -p -- "$2" # SLURM does not make the folder of its log
run sbatch --job-name=his4mae --nodes="$nodes" --ntasks-per-node="$tasks" --gpus-per-node="$gpus" --exclusive \
    --time="$time" --requeue --signal="$signal" --open-mode=append --output="${2//%/%%}/slurm-%j.log" --export=ALL \
    launch/slurm_job.sh "$@"
