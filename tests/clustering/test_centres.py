"""Centres: saved and loaded whole; bad files are refused."""

import dataclasses

import numpy as np
import pytest

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering import clusters
from his4mae_jax.errors import UserError


def test_centres_are_ordered_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(n, 2)) * 0.1 + m for n, m in ((20, (0, 5)), (90, (5, 0)), (40, (-5, -5)))]
    centres = clusters.from_features(np.concatenate(groups).astype(np.float32), 3, 5, 0)
    np.testing.assert_allclose(centres.centres_CxM, [(5, 0), (-5, -5), (0, 5)], atol=0.1)  # largest first
    centre_files.save(tmp_path / "centres.npz", {3: centres}, step=7)
    loaded, facts = centre_files.load(tmp_path / "centres.npz")
    np.testing.assert_array_equal(loaded[3].centres_CxM, centres.centres_CxM)
    np.testing.assert_array_equal(loaded[3].projection_DxM, np.eye(2))
    assert facts == {"step": 7} and loaded[3].group_C is None
    grouped = dataclasses.replace(centres, group_C=np.array([1, 0, 1]))
    centre_files.save(tmp_path / "centres.npz", {2: grouped, 3: centres})
    loaded, _ = centre_files.load(tmp_path / "centres.npz")
    np.testing.assert_array_equal(loaded[2].group_C, [1, 0, 1])
    assert loaded[3].group_C is None


def test_a_damaged_centres_file_is_refused(tmp_path):
    (tmp_path / "centres.npz").write_bytes(b"not npz")
    with pytest.raises(UserError, match="not a centres file"):
        centre_files.load(tmp_path / "centres.npz")


def test_centres_of_another_encoder_or_number_are_refused(tmp_path):
    path = tmp_path / "centres.npz"
    centre_files.save(path, {3: centre_files.Centres(np.eye(3), np.eye(3))}, encoder_digest="one")
    assert list(centre_files.load_for(path, [3], "one")) == [3]
    with pytest.raises(UserError, match="another checkpoint"):
        centre_files.load_for(path, [3], "two")
    with pytest.raises(UserError, match=r"no centres of 4, 6 clusters \(there are 3\)"):
        centre_files.load_for(path, [3, 4, 6], "one")
