"""A batch in parts has the gradient of the whole, on one device and on several, and takes less memory."""

import subprocess
import sys
import textwrap
import types

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.config import get_default
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.models.kernels.batches import fovs_at_once
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step.gradients import gradients, microbatch
from his4mae_jax.training.step.settings import StepSettings

BATCH = 8


def compiled(config, method, at_once):
    """`(function, arguments)` of the gradient of one batch, compiled; labels are of unequal number in its parts."""
    config.method, config.train.batch_size, config.train.microbatch = method, BATCH, at_once
    config.model.cls_token, config.supervised.classes, config.vae.width = method == "maester", 3, 8
    models, rng = METHODS[method].build(config), np.random.default_rng(0)
    labels = rng.integers(0, 3, (BATCH, 20, 20))
    labels[:3, 2:] = IGNORE
    batch = {"image": rng.random((BATCH, 20, 20), np.float32), "labels": labels}
    params = jax.jit(lambda: METHODS[method].init_params(jax.random.key(0), models))()
    if method == "segmenter":  # at first classes are alike, and the LayerNorm over them enlarges what is rounded
        params["encoder"]["decoder"]["class_tokens"] *= 50.0
    teacher = jax.tree.map(lambda x: 1.1 * x, params["encoder"])
    mesh = meshes.make_mesh()
    args = params, teacher, meshes.put_batch(mesh, batch), jax.random.key(1)
    settings = StepSettings.from_config(config)
    return jax.jit(lambda *args: gradients(settings, mesh, *args, True)).lower(*args).compile(), args


def assert_equal(whole, parts):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(parts), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        off = np.abs(np.float64(a) - b).max()
        assert off <= 2e-5 * np.abs(a).max() + 1e-7, (jax.tree_util.keystr(path), off)


@pytest.mark.parametrize("method", METHODS)
def test_parts_have_the_gradient_of_the_whole(tiny, method):
    found = []
    for at_once in (BATCH, 2):
        function, args = compiled(tiny, method, at_once)
        assert ("while" in function.as_text()) >= (at_once == 2)
        found.append(function(*args))
    assert_equal(*found)
    assert np.abs(jax.tree.leaves(found[0][0]["encoder"])[0]).max() > 0


def test_parts_of_several_devices_have_the_gradient_of_the_whole(tiny):
    """Four devices, two parts of one image each, with the codes in the batch's order."""
    script = f"""
        import sys
        sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
        import jax, numpy as np
        jax.config.update("jax_num_cpu_devices", 4)
        import json, ml_collections
        from test_gradients import assert_equal, compiled

        config = ml_collections.ConfigDict(json.loads(sys.argv[1]))
        for method in ("his4mae", "segmenter"):
            (whole, args), (parts, more) = (compiled(config, method, n) for n in (8, 1))
            assert_equal(whole(*args), parts(*more))
            sums = [line for line in parts.as_text().splitlines() if " all-reduce(" in line]
            assert sums and not any("while/body" in line for line in sums), sums
            print(method, len(jax.devices()), "fine")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), tiny.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.stdout == "his4mae 4 fine\nsegmenter 4 fine\n", done.stderr


def test_parts_take_less_memory(tiny):
    sizes = [compiled(tiny, "his4mae", n)[0].memory_analysis().temp_size_in_bytes for n in (BATCH, 1)]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_cpu_takes_what_its_cache_holds_and_an_accelerator_all():
    config = get_default()
    at_once = lambda devices: microbatch(StepSettings.from_config(config), devices)  # noqa: E731
    assert fovs_at_once(METHODS["his4mae"].build(config)) == 4
    config.train.batch_size = 256
    assert at_once(2) == 4
    config.train.batch_size = 34  # 17 images a device: single ones would be slower than all at once
    assert at_once(2) == 17
    config.model.fov, config.model.depth, config.model.decoder_depth = 20, 2, 1
    config.train.batch_size = 256  # of a small model, a tenth of a second: whole, though its arrays do not fit
    small = METHODS["his4mae"].build(config)
    assert fovs_at_once(small) == 64 and at_once(1) == 256
    config = get_default()
    config.train.batch_size, config.train.microbatch = 256, 100  # as somebody chose: at most so many
    assert at_once(1) == 64
    config.train.microbatch = 0
    with tracing_for(types.SimpleNamespace(platform="gpu")):
        assert at_once(1) == 256
    config.method = "vae"  # 32 channels at each of 80 x 80 pixels
    assert at_once(1) == 1


@given(batch=st.integers(1, 300), chosen=st.integers(0, 300), devices=st.integers(1, 9))
def test_a_part_divides_a_device_s_share(batch, chosen, devices):
    config = get_default()
    config.train.batch_size, config.train.microbatch = batch * devices, chosen
    part = microbatch(StepSettings.from_config(config), devices)
    assert batch % part == 0 and (not chosen or part <= chosen)
