"""Features of a sample of voxels: drawn in a plane, and the voxels nearest to the centre of each cluster."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.bucket.path import Place
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.compare.features_umap import FEWEST, embed
from his4mae_jax.data.volumes.grid import centres_nm, nearest_to, read_outer, values_at
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.inference.encoders.opening import frozen
from his4mae_jax.inference.tiling import Tile
from his4mae_jax.inference.trained import TrainedEncoder, load
from his4mae_jax.progress import Log, progress
from his4mae_jax.report.html import markup, record
from his4mae_jax.training.run.checkpoints import Checkpoints, read_config

FILE = "features.npz"
SIDE = 32  # voxels of a box, about
BOXES, CANDIDATES = 16, 96  # boxes encoded, of so many looked at for clusters that are rare
VOXELS = 4000  # in all of them
COVER_VOXELS = 400  # where every voxel has fields of view of its own
# What of segment.json features depend on; clusters can change without them.
_SETTINGS = (
    "encoder_file", "encoder", "stride", "edge_weight", "smooth", "overhang", "inference", "expansion", "symmetries",
    "shifts", "axes",
)  # fmt: skip
TYPICAL = 0.25  # of the voxels of a cluster, those nearest to its centre, are shown
PANEL = 440  # pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of M voxels.

    Attributes:
      index_Mx3: of the encoded volume.
      box_M: number of the box that each is in.
      label_M: of each.
      features_MxD: float32.
      plane_Mx2: by UMAP; None: not computed.
    """

    index_Mx3: np.ndarray
    box_M: np.ndarray
    label_M: np.ndarray
    features_MxD: np.ndarray
    plane_Mx2: np.ndarray | None = None

    def clustered(self, centres: Any) -> np.ndarray:
        """The features as they are clustered: multiplied by the projection of centres, where there is one."""
        own = isinstance(centres, centre_files.Centres)
        return self.features_MxD @ centres.projection_DxM if own else self.features_MxD


def find(
    workdir: Place,
    folder: Place,
    segmentation: Mapping[str, Any],
    volume: VolumeLike,
    labels: VolumeLike,
    log: Log,
    *,
    compute: bool,
    umap: bool,
) -> Features | None:
    """The features of a sample: those kept from an earlier page, else encoded and kept.

    Args:
      workdir: with the checkpoints.
      folder: with the labels, in whose `report/` the features are kept.
      segmentation: content of segment.json.
      volume: that the model works on.
      labels: label volume on any grid of the same space.
      log: prints a line of progress.
      compute: whether the sample is encoded if it is not kept, which takes seconds to minutes.
      umap: whether UMAP is computed where umap-learn is installed, which takes as long.

    Returns:
      None where there are none: nothing is kept and nothing is to be computed, or the encoder is gone.
    """
    what = segmentation.get("what", {})
    if "settings" not in what or "inside" not in what:  # of an earlier version
        return None
    of = {key: what.get(key) for key in ("step", "volume", "shape", "contrast", "inside", "slices", "seed")}
    of |= {key: what["settings"].get(key) for key in _SETTINGS} | {"sample": [SIDE, BOXES, CANDIDATES, VOXELS]}
    arrays = record.kept(folder, FILE, of)
    if arrays is None:
        # A large frozen encoder takes minutes, or half an hour: where features are asked for, as UMAP is.
        compute = compute and (umap or "encoder_file" not in segmentation)
        arrays = _encode(workdir, segmentation, volume, labels, log) if compute else None
        if arrays is None:
            return None
        record.keep(folder, FILE, of, **arrays)
    if umap and "plane_Mx2" not in arrays and _umap_installed() and len(arrays["box_M"]) >= FEWEST:
        with progress("report: UMAP", log=log):
            arrays["plane_Mx2"] = embed(arrays["features_MxD"].astype(np.float32), what.get("seed", 0))
        record.keep(folder, FILE, of, **arrays)
    index_Mx3, box_M = arrays["index_Mx3"], arrays["box_M"]
    label_M = values_at(labels, volume, index_Mx3, box_M)
    found = Features(
        index_Mx3, box_M, label_M, arrays["features_MxD"].astype(np.float32), arrays.get("plane_Mx2")
    )  # fmt: skip
    return found if label_M.any() else None


def _umap_installed() -> bool:
    return importlib.util.find_spec("umap") is not None


def _encoder(workdir: Place, segmentation: Mapping[str, Any]) -> TrainedEncoder | None:
    """The encoder that the labels were made with; None where it is gone."""
    config, settings = ml_collections.ConfigDict(read_config(workdir)), segmentation["what"]["settings"]
    if "encoder_file" not in settings:
        with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
            if segmentation["step"] not in checkpoints.steps():
                return None
            return load(checkpoints, segmentation["step"], settings["encoder"])
    config.segment = {**settings, "encoder_file": segmentation["encoder_file"]}
    try:
        trained = frozen(config)
    except UserError:  # moved
        return None
    return trained if encoder_digest(trained.params) == settings["encoder_file"] else None


def _encode(workdir, segmentation, volume, labels, log):
    """Arrays of a sample; None where the encoder is gone."""
    what, settings = segmentation["what"], segmentation["what"]["settings"]
    trained = _encoder(workdir, segmentation)
    if trained is None:
        return None
    encoder = trained.bind(volume, settings, seed=what.get("seed", 0))
    inside = tuple(slice(*bounds) for bounds in what["inside"])
    tiling = encoder.coverage.feature_tiles(volume.shape, SIDE, inside=inside)
    rng = np.random.default_rng(what.get("seed", 0))
    numbers = np.unique(rng.integers(0, len(tiling), CANDIDATES)) if len(tiling) > CANDIDATES else range(len(tiling))
    candidates = [tiling[int(n)] for n in numbers]
    blocks = [_labels_of(tile, volume, labels) for tile in candidates]
    chosen = _varied([np.bincount(block.ravel(), minlength=256)[1:] for block in blocks])
    if not chosen:
        return None
    each = (COVER_VOXELS if encoder.coverage.cover else VOXELS) // len(chosen)
    index, box, features = [], [], []
    with progress("report: features of a sample", len(chosen), unit="boxes", log=log) as bar:
        bar.note("compiling")
        for number, i in enumerate(chosen):
            at = _voxels(blocks[i], each, rng)
            features.append(encoder.features_at(volume, candidates[i], at))
            index.append(at + [s.start for s in candidates[i].write])
            box.append(np.full(len(at), number))
            bar.note("")
            bar.advance(1)
    return {
        "index_Mx3": np.concatenate(index).astype(np.int32), "box_M": np.concatenate(box).astype(np.int32),
        "features_MxD": np.concatenate(features).astype(np.float16),
    }  # fmt: skip


def _labels_of(tile: Tile, volume: VolumeLike, labels: VolumeLike) -> np.ndarray:
    """The label at every voxel of a tile."""
    at = [nearest_to(labels, a, centres_nm(volume, a, np.arange(s.start, s.stop))) for a, s in enumerate(tile.write)]
    return read_outer(labels, at)


def _varied(counts: Sequence[np.ndarray]) -> list[int]:
    """Which of many boxes to take, so that rare labels are seen: in turn those with most of each label."""
    table = np.stack(counts)
    present = np.flatnonzero(table.sum(axis=0))
    turns = {label: iter(np.argsort(-table[:, label], kind="stable")) for label in present}
    chosen: dict[int, None] = {}
    most = min(BOXES, int(table.any(axis=1).sum()))
    while len(chosen) < most:
        for label in sorted(turns, key=lambda i: table[:, i].sum()):
            best = next((int(i) for i in turns[label] if int(i) not in chosen and table[i, label]), None)
            if best is not None and len(chosen) < most:
                chosen[best] = None
    return sorted(chosen)


def _voxels(block: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` labelled voxels of a box, `(M, 3)`; rare labels are drawn more often than by their number."""
    ids = block.ravel()
    there = np.flatnonzero(ids)
    weight = np.bincount(ids, minlength=256)[ids[there]] ** -0.5
    drawn = rng.choice(there, min(count, len(there)), replace=False, p=weight / weight.sum())
    return np.stack(np.unravel_index(np.sort(drawn), block.shape), axis=1)


def typical(found: Features, centres: Any, label: int, count: int, apart: int) -> np.ndarray:
    """Voxels of a label nearest to its centre, apart from each other, `(N, 3)` with N <= count.

    Args:
      found: the sample.
      centres: of the labels; without centres of its own (classes of a probe) those nearest to the mean.
      label: 1, 2, ...
      count: voxels wanted.
      apart: voxels between any two, along at least one axis; a quarter of that where there are too few places.
    """
    rows = np.flatnonzero(found.label_M == label)
    if not len(rows):
        return np.zeros((0, 3), int)
    z_MxF = found.clustered(centres)[rows]
    own = isinstance(centres, centre_files.Centres) and centres.group_C is None
    centre = centres.centres_CxM[label - 1] if own else z_MxF.mean(axis=0)
    nearest_first = found.index_Mx3[rows[np.argsort(((z_MxF - centre) ** 2).sum(axis=1), kind="stable")]]
    nearest_first = nearest_first[: max(count, int(TYPICAL * len(rows)))]
    taken: list[np.ndarray] = []
    for gap in (apart, apart // 4):
        for at in nearest_first:
            if len(taken) < count and all(np.abs(at - other).max() >= max(gap, 1) for other in taken):
                taken.append(at)
    return np.stack(taken)


def principal_plane(z_MxF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two principal components: ((M, 2) positions, (2,) fractions of the variance, (F, 2) directions)."""
    middle = z_MxF - z_MxF.mean(axis=0)
    _, sizes, directions = np.linalg.svd(middle, full_matrices=False)
    axes_Fx2 = np.zeros((z_MxF.shape[1], 2))
    axes_Fx2[:, : min(2, len(directions))] = directions[:2].T
    variance = sizes**2 / max((sizes**2).sum(), 1e-12)
    return middle @ axes_Fx2, np.pad(variance, (0, 2))[:2], axes_Fx2


def section(
    found: Features | None,
    centres: Any,
    names: Mapping[int, str],
    colours: Mapping[int, str],
    classes: tuple[np.ndarray, Sequence[str], Sequence[str]] | None,
) -> str:
    """The section of the page.

    Args:
      found: the sample; None: there is none.
      centres: of the labels.
      names, colours: by label.
      classes: class id of each voxel, names and colours of the ids; None: no ground truth.
    """
    if found is None:
        text = "No features at hand; <code>his4mae report</code> computes them where the checkpoint is."
        return markup.section("features", "Features", f"<p>{text}</p>")
    plane, share, _ = principal_plane(found.clustered(centres))
    by_label = (found.label_M, {i: (names[i], colours[i]) for i in names})
    ways = [("clusters", *by_label)]
    if classes:
        ids, class_names, class_colours = classes
        ways.append(("ground truth", ids, dict(enumerate(zip(class_names, class_colours, strict=True)))))
    maps = [(f"PCA, {100 * share[0]:.0f} and {100 * share[1]:.0f} % of the variance", plane)]
    maps += [("UMAP", found.plane_Mx2)] if found.plane_Mx2 is not None else []
    panels = "".join(
        f"<figure><figcaption>{escape(f'{title}; coloured by {way}')}</figcaption>{_scatter(xy, ids, looks)}</figure>"
        for title, xy in maps
        for way, ids, looks in ways
    )
    legend = "".join(
        f'<ul class="legend"><li class="note">{way}:</li>'
        + "".join(
            f"<li>{markup.chip(colour)}{escape(name)}</li>" for i, (name, colour) in looks.items() if (ids == i).any()
        )
        + "</ul>"
        for way, ids, looks in ways
    )
    text = (
        f"{len(found.label_M):,} voxels in {len(np.unique(found.box_M))} boxes of about {SIDE} voxels a side; boxes "
        "and voxels of rare clusters are drawn more often than by their number. Clusters that lie apart here are told "
        "apart well; those that run into each other may be parts of one structure."
    )
    return markup.section("features", "Features", markup.note(text) + f'<div class="maps">{panels}</div>{legend}')


def _scatter(xy_Mx2, ids_M, looks):
    """Points as one path for each id, the most frequent below."""
    low, high = np.percentile(xy_Mx2, [0.2, 99.8], axis=0)  # a few far points would press the others together
    at = 10 + (PANEL - 20) * np.clip((xy_Mx2 - low) / np.maximum(high - low, 1e-9), 0, 1)
    at = np.round(at).astype(int)
    paths = []
    for i in sorted(looks, key=lambda i: -np.count_nonzero(ids_M == i)):
        name, colour = looks[i]
        points = "".join(f"M{x} {PANEL - y}h0" for x, y in np.unique(at[ids_M == i], axis=0))
        if points:
            paths.append(f'<path d="{points}" stroke="{escape(colour)}"><title>{escape(name)}</title></path>')
    return f'<svg viewBox="0 0 {PANEL} {PANEL}" class="scatter" role="img">{"".join(paths)}</svg>'
