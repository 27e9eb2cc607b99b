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
# Two minutes before the time limit, and when the job is preempted, the run saves and is queued again by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/lib.sh

usage='usage: launch/slurm.sh [--dry-run] [--nodes=N] [--gpus=N] [--time=T] CONFIG WORKDIR [FLAG ...]'
dry_run=no
nodes=1
gpus=8
limit=24:00:00
while [[ $# -gt 0 ]]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --nodes=*) nodes=${1#*=} ;;
        --gpus=*) gpus=${1#*=} ;;
        --time=*) limit=${1#*=} ;;
        -h | --help) printf '%s\n' "$usage"; exit 0 ;;
        -*) fail "unknown option $1 before CONFIG; $usage" ;;
        *) break ;;
    esac
    shift
done
[[ $# -ge 2 ]] || fail "$usage"
[[ -f $1 ]] || fail "$1: no such config file"
for number in "$nodes" "$gpus"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || fail "--nodes and --gpus are whole numbers above 0, not '$number'"
done
export PYTHON=${PYTHON:-.venv/bin/python}
need sbatch "run this on a login node of the cluster"
[[ $dry_run == yes ]] || command -v "$PYTHON" >/dev/null ||
    fail "$PYTHON: no such interpreter; install the package (README.md), or name one as PYTHON=..."
run mkdir -p "$2" # SLURM does not make the folder of its log
run sbatch --job-name=his4mae --nodes="$nodes" --ntasks-per-node=1 --gpus-per-node="$gpus" --exclusive \
    --time="$limit" --requeue --signal=USR1@120 --open-mode=append --output="$2/slurm-%j.log" --export=ALL \
    launch/slurm_job.sh "$@"
