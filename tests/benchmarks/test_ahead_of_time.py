"""Kernels and bytes read from the text of a program; targets without a compiler."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TEXT = """HloModule jit_step

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x.1 = f32[8]{0} get-tuple-element(%p), index=1
  ROOT %copy.1 = f32[8]{0} copy(%x.1)
}

%large.1 (q: f32[64]) -> f32[64] {
  %q = f32[64]{0} parameter(0)
  ROOT %fusion.9 = f32[64]{0} fusion(%q), kind=kLoop, calls=%f, metadata={op_name="jit(step)/block07/add"}
}

%part.1 (s: f32[512], u: f32[4]) -> f32[4] {
  %s = f32[512]{0} parameter(0)
  %u = f32[4]{0} parameter(1)
  %bits = f32[512]{0} bitcast(%s)
  %some = f32[4]{0} slice(%bits), slice={[8:12]}
  ROOT %sum = f32[4]{0} add(%some, %u)
}

%small.1 (r: f32[64]) -> f32[64] {
  ROOT %r = f32[64]{0} parameter(0)
}

ENTRY %main.2 (a: bf16[4,8]) -> f32[64] {
  %a = bf16[4,8]{1,0} parameter(0), metadata={op_name="a"}
  %b = f32[64]{0:T(256)S(1)} parameter(1)
  %two = (bf16[4,4]{1,0}, s8[4096]{0}) custom-call(%a, %a), custom_call_target="__cublas$lt$matmul"
  %long = f32[512]{0} parameter(2)
  %short = f32[4]{0} parameter(3)
  %slice_fusion = f32[4]{0} fusion(%long, %short), kind=kLoop, calls=%part.1
  %gemm.1 = bf16[4,4]{1,0} fusion(%a), kind=kCustom, calls=%g, backend_config={"kind":"__triton_gemm"}
  %w = (s32[], f32[8]{0}) while(%t), condition=%c, body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %cond = f32[64]{0} conditional(%i, %b, %b), branch_computations={%large.1, %small.1}
}
"""


@pytest.fixture
def benchmark():
    import program

    return program


def test_kernels_of_a_program(benchmark):
    found = benchmark.kernels(TEXT)
    assert [(k.kind, k.bytes) for k in found] == [
        ("__cublas$lt$matmul", 32 + 64 + 64),  # without the library's scratch memory
        ("fusion, loop", 16 + 16 + 16),  # of a long operand, what is read
        ("matrix product", 32 + 64),
        *[("copy", 64)] * 3,
        ("fusion, loop", 512),  # the larger branch
    ]
    assert found[-1].op == "jit(step)/block07/add"
    assert benchmark.size("f32[64]{0:T(256)S(1)} f32[2,3]{1,0:S(0)} pred[5] s32[]") == 24 + 5 + 4
    with pytest.raises(ValueError, match="ENTRY"):
        benchmark.kernels("HloModule empty")


def test_a_real_program_moves_at_least_its_inputs_and_outputs(benchmark):
    x = jnp.ones((64, 64))
    found = benchmark.kernels(jax.jit(lambda x: jnp.tanh(x @ x + 1)).lower(x).compile().as_text())
    assert sum(k.bytes for k in found) >= 2 * x.nbytes


@pytest.mark.parametrize(("target", "says"), [("p100", "choose among h100"), ("v5e:2x4", 'pip install "jax[tpu]"')])
def test_a_target_without_a_compiler_is_a_one_line_error(target, says):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "ahead_of_time.py", "--targets", target], capture_output=True, text=True
    )
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout
