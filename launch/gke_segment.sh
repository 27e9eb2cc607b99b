#!/usr/bin/env bash
# What the pod `command` of launch/gke_segment.yaml does: CONFIG WORKDIR [FLAG ...]
set -euo pipefail
source launch/lib.sh
export PYTHON=${PYTHON:-python3}
segment_by_dask /tmp/scheduler.json 8786 "$@"
exit "$status"
