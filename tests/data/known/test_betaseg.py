"""BetaSeg's file tree and the labels put together from its masks."""

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.known import betaseg
from his4mae_jax.data.known.source import Name
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.errors import UserError

SHAPE = (6, 7, 8)
WHOLE = (slice(None),) * 3


def _write(folder, cell="high_c4", **parts):
    """A cell whose masks are blocks that overlap; `parts` replaces some of them."""
    folder.mkdir(parents=True)
    masks = {name: np.zeros(SHAPE, np.uint8) for name in betaseg.MASKS}
    masks["nucleus_mask"][:4] = 255
    masks["mitochondria_mask"][3:5, :, 4:] = 1
    masks["granules"] = masks["granules"].astype(np.uint16)
    masks["granules"][4, :, 3:6] = 700  # instance ids
    masks["membrane_full_mask"][:, 1:] = 1
    image = np.random.default_rng(0).integers(1, 200, SHAPE, np.uint8)
    for part, data in {"source": image, **masks, **parts}.items():
        if data is not None:
            tifffile.imwrite(folder / f"{cell}_{part}.tif", data, photometric="minisblack", compression="zlib")


@pytest.mark.parametrize("inner", ["download/high_c4", "high_c4"])
def test_labels(tmp_path, inner):
    _write(tmp_path / inner)
    cell = betaseg.find_cell(tmp_path, "high_c4")
    assert cell.image_path == tmp_path / inner / "high_c4_source.tif"
    labels = betaseg.labels(Name("betaseg", "high_c4", ""), tmp_path)
    assert labels.shape == SHAPE and labels.dtype == np.uint8
    assert labels.voxel_size_nm == (16.0, 16.0, 16.0) and "high_c4" in labels.name
    read = labels.read(WHOLE)
    assert read.dtype == np.uint8 and (read[:, 0] == IGNORE).all()
    names = np.array(betaseg.CLASSES)[read[:, 1]]
    assert (names[:3] == "nucleus").all()
    assert (names[3, 4:] == "mitochondria").all()  # over the nucleus
    assert (names[4, 3:6] == "granules").all()  # over mitochondria
    assert (names[4, 6:] == "mitochondria").all() and (names[5] == "unrecognized").all()
    box = (slice(2, 5), slice(0, 3), slice(3, 8))
    np.testing.assert_array_equal(labels.read(box), read[box])
    assert set(np.unique(resample(labels, 24, labels=True).read(WHOLE))) <= {0, 1, 2, 3, IGNORE}


def test_leading_singleton_axes(tmp_path):
    _write(tmp_path / "high_c4", source=np.zeros((1, *SHAPE), np.uint8))
    assert betaseg.labels(Name("betaseg", "high_c4", ""), tmp_path).shape == SHAPE


def test_errors(tmp_path):
    with pytest.raises(UserError, match="high_c9.*high_c1, high_c2"):
        betaseg.find_cell(tmp_path, "high_c9")
    with pytest.raises(UserError, match="high_c4_source.tif.*download BetaSeg"):
        betaseg.find_cell(tmp_path, "high_c4")
    _write(tmp_path / "download" / "high_c4", granules=None)
    with pytest.raises(UserError, match="high_c4_granules.tif.*download BetaSeg"):
        betaseg.labels(Name("betaseg", "high_c4", ""), tmp_path)
    _write(tmp_path / "low_c1", "low_c1", nucleus_mask=np.zeros((6, 7, 9), np.uint8))
    with pytest.raises(UserError, match=r"low_c1_nucleus_mask.tif.*\(6, 7, 9\).*\(6, 7, 8\)"):
        betaseg.labels(Name("betaseg", "low_c1", ""), tmp_path)
