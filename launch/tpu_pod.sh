#!/usr/bin/env bash
# Runs one config on all hosts of a Cloud TPU pod slice (TPU VMs), with gcloud:
#
#     launch/tpu_pod.sh [--dry-run] --name=TPU --zone=ZONE CONFIG WORKDIR [FLAG ...]
#
# Copies the last commit to every host, installs it there, and starts it in the background. WORKDIR and the data
# lie on a file system that every host has mounted at the same place, or in a bucket. FLAGs go to the program as they are. The project is
# gcloud's own setting. --dry-run prints the commands and runs none. A run that is told to stop by a signal
# saves and starts anew; after the slice was replaced, the same command goes on from the last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/lib.sh

usage='usage: launch/tpu_pod.sh [--dry-run] --name=TPU --zone=ZONE CONFIG WORKDIR [FLAG ...]'
name='' zone=''
read_options "name zone" "$@"
set -- "${words[@]}"
[[ -n $name && -n $zone ]] || fail "$usage"
need_config "$1"
[[ $2 == /* || $2 =~ ^(gs|s3):// ]] ||
    fail "WORKDIR $2: give an absolute path, on a file system that all hosts have mounted, or one of gs:// or s3://"
need gcloud "install the Google Cloud CLI and log in"

on_all() {
    run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$1"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/his4mae_jax.tar.gz
run git archive --format=tar.gz "--output=$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$name:his4mae_jax.tar.gz" "--zone=$zone" --worker=all
on_all 'rm -rf his4mae_jax && mkdir his4mae_jax && tar -xzf his4mae_jax.tar.gz -C his4mae_jax &&
    python3 -m venv --clear his4mae_jax/.venv && his4mae_jax/.venv/bin/pip install --quiet -e "./his4mae_jax[tpu,bucket]"'
program=(.venv/bin/python -m his4mae_jax.main "--config=$1" "--workdir=$2" --config.train.require_accelerator=True "${@:3}")
# In a session of its own, so that it goes on when ours ends.
again="while $(printf '%q ' "${program[@]}"); [ \$? -eq 75 ]; do sleep 5; done"
on_all "cd his4mae_jax && setsid nohup bash -c $(printf '%q' "$again") >../his4mae.log 2>&1 </dev/null &"
echo "follow it with:"
show gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=0 '--command=tail -f his4mae.log'
