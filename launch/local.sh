#!/usr/bin/env bash
# Runs one config on this machine, on its NVIDIA GPU(s) if there are any and else on its CPU:
#
#     launch/local.sh [--dry-run] [--device=auto|cpu|cuda] CONFIG WORKDIR [FLAG ...]
#
# CONFIG is a path, or a name in configs/ such as demo.
# Makes the virtual environment .venv and installs into it on the first run. FLAGs go to the
# program as they are, such as --mode=segment or --config.segment.stride=20. Relative paths are
# taken from the repository's root. PYTHON names another interpreter than python3. --dry-run
# prints the commands and runs none. The same command again goes on from the last checkpoint; status 75
# says that a signal stopped the run and that it is to be started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/lib.sh

usage='usage: launch/local.sh [--dry-run] [--device=auto|cpu|cuda] CONFIG WORKDIR [FLAG ...]'
device=auto
read_options "device" "$@"
set -- "${words[@]}"
config=$1
workdir=$2
shift 2

need_config "$config"
if [[ $device == auto ]]; then
    device=cpu
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
        device=cuda
    fi
fi
case $device in
    cpu) package=. platforms=cpu ;;
    # The CPU stays listed: batches are planned on it.
    cuda) package='.[cuda]' platforms=cuda,cpu ;;
    *) fail "--device=$device: choose one of auto, cpu, cuda" ;;
esac

python=.venv/bin/python
installed=.venv/installed-$device
if [[ ! -x $python ]]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; name one as PYTHON=python3.12 launch/local.sh ..."
    run "${PYTHON:-python3}" -m venv .venv
fi
if [[ ! -f $installed || -n $(find setup.cfg setup.py pyproject.toml requirements.txt -newer "$installed") ]]; then
    run "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -e "$package"
    run touch "$installed"
fi
if [[ $device == cuda ]]; then # JAX would train on the CPU rather than say so
    run "$python" -c 'import jax; jax.devices("cuda")' ||
        fail "JAX cannot use a GPU here; see what nvidia-smi says, or give --device=cpu"
fi
program=(env "JAX_PLATFORMS=$platforms" "$python" -m his4mae_jax.main "--config=$config" "--workdir=$workdir" "$@")
show "${program[@]}"
[[ $dry_run == yes ]] || exec "${program[@]}" # in our place, so that signals reach it
