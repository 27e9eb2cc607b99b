"""The examples of docs/library.md run, in their order, with a small model and few steps."""

import pathlib
import re

import numpy as np
import tifffile

import his4mae_jax
from his4mae_jax.settings import build

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
TINY = {
    "model.embed_dim": 8, "model.depth": 1, "model.decoder_dim": 8, "codebook.size": 6, "train.batch_size": 4,
    "train.samples_per_epoch": 16, "train.steps": 4, "segment.restarts": 2, "segment.fraction": 0.02,
}  # fmt: skip


def test_the_examples_run(image, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    for key, value in TINY.items():
        monkeypatch.setitem(build.SMALL, key, value)
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("cell_1.tif", image)
    tifffile.imwrite("truth.tif", np.uint8(image // 86))
    space = {}
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), space)
    printed = capsys.readouterr().out
    assert "(24, 56, 50) uint8 (8.0, 8.0, 8.0)" in printed and "cell_2.tif: no such" in printed
    assert space["encoder"].step == 4 and space["quick"].step == 20 and space["quick"].config.segment.stride == 4
    assert set(np.unique(space["labels"])) == {1, 2, 3, 4} and space["other"].centres.clusters == 4
    assert 0 < space["scores"].dsc["mean"] < 1
    assert all(hasattr(his4mae_jax, name) for name in set(re.findall(r"his4mae_jax\.(\w+)", PAGE)) - {"config"})
