"""Features of voxels in two dimensions by UMAP, coloured by ground truth (the paper's Fig. 5)."""

import contextlib
import importlib.util
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from his4mae_jax.compare.curves import legend_columns
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.figures import style
from his4mae_jax.inference.volume_encoder import VolumeEncoder

VOXELS = 5000
NEIGHBOURS = 15  # umap-learn's default
FEWEST = 20  # voxels: fewer have no neighbourhoods to show
PANEL = 3.6  # inches


def need_umap(cause: ImportError | None = None) -> None:
    """Raises `UserError` unless umap-learn is installed and, as far as is known, can be imported (`cause`)."""
    if cause is None and importlib.util.find_spec("umap") is not None:
        return
    raise UserError(
        f"config key compare.figures: 'umap' needs the package umap-learn ({cause or 'not installed'}); get it with "
        "pip install 'his4mae_jax[umap]', or leave 'umap' out"
    ) from cause


def load_umap() -> type:
    """The class `umap.UMAP`; `UserError` where umap-learn cannot be imported."""
    need_umap()
    try:
        # It imports TensorFlow, where there is one, for a variant not used here, and warns where there is none.
        with warnings.catch_warnings(), _hidden("tensorflow"):
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError as error:
        need_umap(error)
    return UMAP


@contextlib.contextmanager
def _hidden(module):
    """Importing `module` fails in here, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None
    try:
        yield
    finally:
        del sys.modules[module]


def annotated_features(
    encoder: VolumeEncoder, image: VolumeLike, labels: VolumeLike, *, count: int = VOXELS, max_tiles: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features, as they are clustered, of random voxels inside the annotation.

    Every annotated voxel of the tiles encoded is as likely as any other; these are drawn as in
    `clustering.sampling.sample`, but only among tiles with annotation.

    Args:
      encoder: a `VolumeEncoder`.
      image: the volume (z, y, x).
      labels: label volume of the same shape, class ids and `IGNORE`.
      count: voxels at most.
      max_tiles: largest number of tiles that are encoded.
      seed: the same gives the same voxels, for every encoder with the same tiles.

    Returns:
      features `(M, D)` float32 and class ids `(M,)`; M is 0 without annotation.
    """
    rng = np.random.default_rng(seed)
    all_tiles = encoder.coverage.fit_tiles(image.shape)
    chosen, sizes = [], []
    for i in rng.permutation(len(all_tiles)):
        annotated = np.count_nonzero(labels.read(all_tiles[i].write) != IGNORE)
        if annotated:
            chosen.append(all_tiles[i])
            sizes.append(annotated)
        if len(chosen) == max_tiles:
            break
    ends, total = np.cumsum(sizes), sum(sizes)
    picked = np.sort(rng.choice(total, min(count, total), replace=False)) if total else np.zeros(0, int)
    tile_of_voxel = np.searchsorted(ends, picked, side="right")
    features, classes = [np.zeros((0, encoder.coverage.dim), np.float32)], [np.zeros(0, np.uint8)]
    for i, tile in enumerate(chosen):
        block = labels.read(tile.write)
        positions = np.flatnonzero(block != IGNORE)[picked[tile_of_voxel == i] - (ends[i] - sizes[i])]
        if len(positions):
            index_Mx3 = np.stack(np.unravel_index(positions, block.shape), axis=1)
            features.append(encoder.features_at(image, tile, index_Mx3))
            classes.append(block.ravel()[positions])
    return np.concatenate(features), np.concatenate(classes)


def embed(features_MxD: np.ndarray, seed: int) -> np.ndarray:
    """Reduces features to two dimensions by UMAP (McInnes et al. 2018), `(M, 2)`; a seed gives the same each time.

    Raises:
      UserError: umap-learn is not installed.
    """
    umap = load_umap()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from numba, and from spectral initialisations that fall back to random ones
        # With a fixed seed UMAP uses one thread anyway, and warns if more are set.
        reducer = umap(n_components=2, n_neighbors=min(NEIGHBOURS, len(features_MxD) - 1), random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(features_MxD))


def feature_maps(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray]], class_names: Sequence[str], path: str | os.PathLike
) -> None:
    """Draws each method's voxels in UMAP's two dimensions, coloured by their class.

    Args:
      panels: for each method its name, `(M, 2)` positions and `(M,)` class ids.
      class_names: one name for each class id.
      path: the PNG.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(PANEL * columns, 4.6), PANEL * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = np.array(style.colours(len(class_names)))
    for ax in grid[len(panels) :]:
        ax.remove()
    for ax, (name, position_Mx2, class_M) in zip(grid, panels, strict=False):
        order = np.random.default_rng(0).permutation(len(class_M))  # or one class would hide the others
        ax.scatter(*position_Mx2[order].T, c=colours[class_M[order]], s=5, alpha=0.7, linewidths=0, rasterized=True)
        ax.set_title(textwrap.fill(name, 38), fontsize=11)
        ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    present = sorted(set(np.concatenate([class_M for *_, class_M in panels]).tolist()))
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colours[i], label=class_names[i], markersize=6) for i in present
    ]
    ncols = legend_columns([handle.get_label() for handle in handles], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    style.save(figure, path)
