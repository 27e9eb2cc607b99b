"""After `keep` a call finds the memory of the one before: no page is asked of the system again."""

import subprocess
import sys

import pytest

from his4mae_jax import host_memory

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from his4mae_jax import host_memory

kept = sys.argv[1] == "keep" and host_memory.keep()

@jax.jit
def many_arrays(x):
    made = [x]
    for i in range(8):
        made.append(jnp.sin(made[-1] @ jnp.ones((64, 64))))
    return sum(y @ jnp.ones((64, 64)) for y in reversed(made)).sum()

x = jnp.ones((16384, 64))  # 4 MiB each
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(many_arrays(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[1:]))
"""


def run(how):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
def test_pages_are_kept():
    kept, faults = run("keep")
    if not kept:
        pytest.skip("not glibc")
    assert faults < 500 < run("plain")[1]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host_memory.keep() is False
