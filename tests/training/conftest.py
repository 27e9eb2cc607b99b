"""Runs of the real command in one or several processes."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tifffile

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 280  # seconds that a run may take on a busy machine
CONFIG = """
from his4mae_jax.config import get_default


def get_config():
    c = get_default()
    c.data.train = ({image!r},)
    c.data.test, c.data.test_labels = {image!r}, {labels!r}
    c.data.class_names = ("background", "texture")
    c.data.file_voxel_size_nm = (10.0, 10.0, 10.0)
    c.model.fov, c.model.patch_size, c.data.crop_min = 20, 5, 10
    c.model.embed_dim, c.model.depth = 8, 1
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 8, 1, 2
    c.codebook.size = 6
    c.train.batch_size, c.train.samples_per_epoch = 8, 80
    c.train.steps, c.train.log_every, c.train.checkpoint_every = 60, 5, 1000
    c.report.after_stages = False
    c.train.steps_per_call = 1  # so that a signal finds the run before its end
    c.segment.stride, c.segment.fraction, c.segment.tile, c.segment.block = 10, 0.05, 20, (8, 20, 20)
    c.evaluate.baselines, c.evaluate.curve_box = (), 24
    return c
"""


class Runs:
    """A small config, and its runs in folders beside it."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        mask = np.zeros((24, 40, 44), bool)
        mask[:, 13:26, 11:33] = True
        image = 120 + 12 * rng.normal(size=mask.shape)
        image[mask] += 70 * (np.indices(mask.shape)[2][mask] // 2 % 2) - 35
        tifffile.imwrite(folder / "image.tif", np.clip(image, 0, 255).astype(np.uint8))
        tifffile.imwrite(folder / "labels.tif", mask.astype(np.uint8))
        paths = {name: str(folder / f"{name}.tif") for name in ("image", "labels")}
        self.folder, self.config = folder, folder / "tiny.py"
        self.config.write_text(CONFIG.format(**paths))

    @staticmethod
    def environment(devices, **more):
        """Of a process with so many CPU devices, in which no launcher of this machine meddles."""
        foreign = ("SLURM_", "JAX_COORD", "JAX_NUM", "JAX_PROCESS", "JAX_LOCAL", "JAX_PLATFORMS", "TPU_", "MEGASCALE_")
        own = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and "_proxy" not in k.lower()}
        return {**own, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), **more}

    def command(self, name, *args):
        return [f"--config={self.config}", f"--workdir={self.folder / name}", *args]

    def start(self, name, processes, devices, *args, each=()):
        """Start the processes of one run, of `devices` CPU devices each; `each` has further flags by process."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{s.getsockname()[1]}"
        started = []
        for index in range(processes):
            several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": f"{processes}"}
            several["JAX_PROCESS_ID"] = f"{index}"
            env = self.environment(devices, **(several if processes > 1 else {}))
            command = [sys.executable, "-m", "his4mae_jax.main", *self.command(name, *args, *dict(each).get(index, ()))]
            out = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            started.append(subprocess.Popen(command, cwd=ROOT, env=env, **out))
        return started

    @staticmethod
    def wait(started):
        """`(statuses, outputs)` of processes, which are ended when they take too long."""
        deadline = time.time() + LIMIT
        try:
            outputs = [p.communicate(timeout=max(1, deadline - time.time()))[0] for p in started]
        finally:
            for p in started:
                p.kill()
        return [p.returncode for p in started], outputs

    def run(self, name, processes, devices, *args):
        """Run to the end; the outputs of all processes."""
        statuses, outputs = self.wait(self.start(name, processes, devices, *args))
        assert statuses == [0] * processes, outputs
        return outputs

    def stop(self, started, name, step, which, number=signal.SIGTERM):
        """Send a signal to one process of a run when its log has come to `step`; statuses and outputs of all."""
        deadline = time.time() + LIMIT
        while not any(line["step"] >= step for line in self.log(name)):
            assert all(p.poll() is None for p in started) and time.time() < deadline, self.wait(started)
            time.sleep(0.01)
        started[which].send_signal(number)
        return self.wait(started)

    def log(self, name):
        """Lines of train.jsonl that are whole."""
        path = self.folder / name / "train.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def state(self, name):
        """`(step, state)` of the newest checkpoint, restored on the one device of the tests."""
        import ml_collections

        from his4mae_jax.training.devices.mesh import make_mesh, replicated
        from his4mae_jax.training.run.checkpoints import Checkpoints, read_config
        from his4mae_jax.training.step.state import state_like

        config = ml_collections.ConfigDict(read_config(self.folder / name))
        checkpoints = Checkpoints(self.folder / name, config)
        step = checkpoints.steps()[-1]
        state, _ = checkpoints.restore(step, state_like(config), replicated(make_mesh()))
        checkpoints.close()
        return step, jax.device_get(state)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))
