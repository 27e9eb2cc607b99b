"""A small run, whole and stopped half-way, whose files tests damage."""

import pathlib
import shutil

import numpy as np
import pytest
import tifffile
from tiny_config import tiny_config

from his4mae_jax.cli import stages
from his4mae_jax.errors import UserError
from his4mae_jax.output.engine.markers import Markers
from his4mae_jax.report import page

OUT = pathlib.Path("volumes/cell")


class Runs:
    """The folders `whole` (trained, segmented, scored) and `half` (killed while it segmented), and copies of them."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.folder, self._copies = folder, 0
        for name, most in (("cell", 255), ("truth", 2)):
            tifffile.imwrite(folder / f"{name}.tif", rng.integers(0, most, (24, 40, 36), dtype=np.uint8))
        stages.run(self.config(), folder / "whole", "train")
        shutil.copytree(folder / "whole", folder / "half")
        self._stop_after_two_tiles()
        for mode in ("segment", "evaluate"):
            assert self.run(folder / "whole", mode) is None

    def _stop_after_two_tiles(self):
        marked, mark = [], Markers.mark

        def stop(markers, written):
            mark(markers, written)
            marked.append(written)
            if len(marked) == 2:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Markers, "mark", stop)
            stages.run(self.config(), self.folder / "half", "segment")

    def config(self):
        c = tiny_config()
        c.train.steps, c.train.log_every, c.train.checkpoint_every, c.codebook.start = 2, 1, 1, 0.0
        c.data.train, c.data.test = (str(self.folder / "cell.tif"),), str(self.folder / "cell.tif")
        c.data.test_labels, c.data.class_names = str(self.folder / "truth.tif"), ("one", "other")
        c.data.file_voxel_size_nm = (8.0, 8.0, 8.0)
        c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "z", 0.02, 3
        c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = 24, (8, 12, 12), 16, 1
        c.evaluate.baselines, c.evaluate.curve_box, c.report.after_stages = (), 0, False
        return c

    def copy(self, name):
        self._copies += 1
        return pathlib.Path(shutil.copytree(self.folder / name, self.folder / f"copy{self._copies}"))

    def run(self, workdir, mode, **changes):
        """The error of a mode, or None; anything but a `UserError` fails the test."""
        config = self.config()
        for key, value in changes.items():
            group, _, name = key.partition("__")
            config[group][name] = value
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(page, "draw", lambda *args: [])
                stages.run(config, workdir, mode)
        except UserError as error:
            return str(error)
        return None

    def labels(self, workdir):
        """The bytes of the labels, by path, and whether there are no others."""
        folder = workdir / OUT / "labels.ome.zarr"
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("damage"))
