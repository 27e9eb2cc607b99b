#!/usr/bin/env bash
# Measures every claim about GPUs in one run of under ten minutes, without a network.
#
#   bash benchmarks/gpu_session.sh [FOLDER FOR RESULTS] [FOLDER WITH WHEELS]
#
# Run from anywhere. The machine needs Python 3.11 or later with jax for its GPU, flax, optax, orbax, tensorstore and
# scikit-learn, and torch for the comparison. Other missing packages of requirements.txt are taken from the folder with
# wheels (by default wheels/ in the repository), downloaded beforehand on another machine, for example with
#   pip download --no-deps -d wheels clu==0.0.12 ml-collections==1.1.0
# PEAK is the device's dense bfloat16 rate in TFLOP/s (989: H100 and H200). Every part has a time limit. If one fails,
# the others still run, and it is listed at the end.

set -u
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "${1:-$root/runs/gpu_session}" && cd "${1:-$root/runs/gpu_session}" && pwd)
wheels=${2:-$root/wheels}
python=${PYTHON:-python3}
peak=${PEAK:-989}
site=$out/site
failed=()
cd "$root" || exit 1

# Only missing wheels are unpacked, next to the results and not into the machine's own packages.
missing() {
    "$python" - <<'PY'
import importlib.util
names = {"clu": "clu", "ml_collections": "ml_collections", "absl": "absl_py", "tifffile": "tifffile",
         "tensorboardX": "tensorboardx", "tqdm": "tqdm", "scipy": "scipy", "matplotlib": "matplotlib",
         "flax": "flax", "optax": "optax", "orbax.checkpoint": "orbax_checkpoint", "tensorstore": "tensorstore",
         "sklearn": "scikit_learn", "google.protobuf": "protobuf", "yaml": "pyyaml"}
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print(" ".join(wheel for name, wheel in names.items() if not there(name)))
PY
}
export PYTHONPATH=$root:$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=$out/cache
mkdir -p "$site"
for name in $(missing); do
    wheel=$(find "$wheels" -iname "${name//_/[-_]}-*.whl" 2>/dev/null | head -n 1)
    if [ -n "$wheel" ]; then
        "$python" -m zipfile -e "$wheel" "$site" && echo "taken from wheels: $(basename "$wheel")"
    else
        echo "missing: $name, neither installed nor in $wheels"
    fi
done

# part NAME SECONDS COMMAND...: run the command with a time limit; output goes to the terminal and to NAME.log.
part() {
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    echo "=== $name"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || failed+=("$name (exit $status)")
    echo "=== $name: $((SECONDS - began)) s"
}

part machine 30 bash -c "nvidia-smi || true; '$python' -c '
import jax, jaxlib
print(jax.__version__, jaxlib.__version__, jax.devices(), jax.default_backend())
assert jax.default_backend() != \"cpu\", \"JAX sees no accelerator\"'"

# Correctness first: losses, gradients and tokens of this device against those of a CPU in float32.
part check 60 "$python" benchmarks/gpu_check.py --json "$out/check.json"

# The paper's recipe: batch 256, bfloat16, 25 steps per dispatch, as in training on an accelerator.
part train 130 "$python" benchmarks/train_throughput.py --method his4mae --batch 256 --dtype bfloat16 --side 512 \
    --per-call 25 --calls 4 --rounds 5 --peer reduce-overhead --peak-tflops "$peak" --json "$out/train.json"
part profile 75 "$python" benchmarks/train_throughput.py --method his4mae --batch 256 --dtype bfloat16 --side 512 \
    --per-call 25 --calls 1 --rounds 3 --what step --peer --count --profile "$out/trace" --peak-tflops "$peak" \
    --json "$out/profile.json"

# Microbatches, whose arrays may stay in the device's second-level cache (50 MB), but with many more, smaller kernels.
part train_in_parts 45 "$python" benchmarks/train_throughput.py --method his4mae --batch 256 --dtype bfloat16 \
    --side 512 --per-call 25 --calls 2 --rounds 3 --what step --peer --microbatch 64 --peak-tflops "$peak" \
    --json "$out/train_in_parts.json"

# A volume of high_c4's size.
part segment 100 "$python" benchmarks/segment_throughput.py --shape 1021,545,1082 --axes z --dtype bfloat16 \
    --batch-fovs 512 --rounds 2 --peer default --json "$out/segment.json"
part segment_zyx 90 "$python" benchmarks/segment_throughput.py --shape 1021,545,1082 --axes zyx --dtype bfloat16 \
    --batch-fovs 512 --rounds 1 --peer --json "$out/segment_zyx.json"

part growth 45 "$python" benchmarks/growth.py --sides --batches 32 64 128 256 512 --model full \
    --json "$out/growth.json" --figure "$out/growth.png"

rm -rf "$site" "$out/cache"
echo "results in $out after $SECONDS s"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
