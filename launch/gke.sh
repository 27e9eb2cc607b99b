#!/usr/bin/env bash
# Runs one config on Google Kubernetes Engine, as a JobSet of GPU nodes or of the hosts of a TPU slice:
#
#     launch/gke.sh [--dry-run] --accelerator=gpu --type=nvidia-h100-80gb --nodes=2 --chips=8 \
#         --image=IMAGE --claim=PVC CONFIG WORKDIR [FLAG ...]
#     launch/gke.sh [--dry-run] --accelerator=tpu --type=tpu-v5-lite-podslice --topology=4x4 --nodes=4 --chips=4 \
#         --image=IMAGE --claim=PVC CONFIG WORKDIR [FLAG ...]
#
# --type is the node label's value, --chips the number of them in a node, --name the JobSet's name (his4mae). The
# PersistentVolumeClaim (ReadWriteMany) is mounted at /shared, where WORKDIR and the data lie; with a WORKDIR of gs:// or
# s3://, and data in a bucket or the image, none is needed. CONFIG is a path in the image. FLAGs go to the program as they are. --dry-run prints what would be applied. The cluster needs JobSet 0.6
# or newer. Pods that are told to stop save, and all start again from there. With --mode=segment among the FLAGs, on GPUs,
# one pod runs the command and a Dask scheduler, and each GPU has a pod with a worker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/lib.sh

usage='usage: launch/gke.sh [--dry-run] --accelerator=gpu|tpu --type=T [--topology=AxB] --nodes=N --chips=N
    --image=I [--claim=C] [--name=N] CONFIG WORKDIR [FLAG ...]'
name=his4mae accelerator='' type='' topology='' nodes='' chips='' image='' claim=''
read_options "accelerator type topology nodes chips image claim name" "$@"
set -- "${words[@]}"
[[ $accelerator == gpu || $accelerator == tpu ]] || fail "--accelerator=$accelerator: choose gpu or tpu"
[[ $accelerator == tpu ]] || topology=none
in_bucket=no
[[ ! $2 =~ ^(gs|s3):// ]] || in_bucket=yes
shared=${claim:-$([[ $in_bucket == no ]] || echo none)}
for option in "name=$name" "type=$type" "topology=$topology" "image=$image" "claim=$shared"; do
    [[ $option =~ ^[a-z]+=[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] || fail "--$option: give one plain word; $usage"
done
for option in "nodes=$nodes" "chips=$chips"; do
    [[ $option =~ ^[a-z]+=[1-9][0-9]*$ ]] || fail "--$option: give a whole number above 0; $usage"
done
[[ $in_bucket == yes || $2 == /shared/* ]] ||
    fail "WORKDIR $2: give a path below /shared, where the claim is mounted, or one of gs:// or s3://"

# The program's arguments as a JSON list, which is YAML too. Kubernetes reads $(x) as a variable: $$ is a dollar.
kind=$accelerator program=("--config=$1" "--workdir=$2" --config.train.require_accelerator=True "${@:3}")
if [[ $accelerator == gpu ]] && by_dask "${@:3}"; then
    kind=segment program=("$@")
fi
arguments=
for word in "${program[@]}"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//$'\n'/\\n}
    arguments+="${arguments:+, }\"${word//\$/\$\$}\""
done

manifest=$(<"launch/gke_$kind.yaml")
if [[ -z $claim ]]; then # an empty folder of each pod
    manifest=$(sed -e 's/persistentVolumeClaim:/emptyDir:/' -e 's/claimName: .*/medium: ""/' <<<"$manifest")
fi
fill() {
    manifest=${manifest//"\${$1}"/"$2"}
}
fill NAME "$name"
fill ACCELERATOR "$type"
fill TOPOLOGY "$topology"
fill NODES "$nodes"
fill CHIPS "$chips"
fill WORKERS "$((nodes * chips))"
fill IMAGE "$image"
fill CLAIM "$claim"
fill ARGS "[$arguments]"
need kubectl "install it and let it point to the cluster"
printf '%s\n' "$manifest"
if [[ $dry_run == no ]]; then
    kubectl apply -f - <<<"$manifest"
fi
echo "# follow it with: kubectl logs -f --selector=jobset.sigs.k8s.io/jobset-name=$name --prefix"
