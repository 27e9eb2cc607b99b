"""The evaluate stage: score label volumes, baselines and checkpoints into one metrics dict."""

import pathlib
import shutil
import time

import numpy as np

from his4mae_jax.data import ome_zarr
from his4mae_jax.data.contrast import estimate_contrast
from his4mae_jax.data.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation import dice
from his4mae_jax.evaluation.classical import cluster_classical
from his4mae_jax.segmentation import centres as centre_files
from his4mae_jax.segmentation.label_volume import label_path, make_segmenter, need_checkpoint, segmented
from his4mae_jax.training.checkpoints import Checkpoints


def _score(confusion, class_names):
    return {
        "one_to_one": dice.one_to_one(confusion, class_names).dsc,
        "many_to_one": dice.many_to_one(confusion, class_names).dsc,
    }


def _block(confusions, headline, class_names, seconds):
    """The metrics block of one method from its confusion matrices by C."""
    by_clusters = {str(size): _score(c, class_names) for size, c in sorted(confusions.items())}
    return {
        "dsc": by_clusters[str(headline)], "clusters": headline, "seconds": seconds, "by_clusters": by_clusters,
    }  # fmt: skip


def _baseline(kind, config, test, sizes, workdir):
    """Cluster the volume by a classical baseline, as label volumes, and score them."""
    folder = pathlib.Path(workdir) / "baselines"
    arrays, paths = {}, {}
    for size in sizes:
        paths[size] = folder / f"{kind}_c{size}.ome.zarr"
        arrays[size] = ome_zarr.create(
            paths[size], test.image.shape, np.uint8, test.image.voxel_size_nm, chunks=config.segment.block,
            label_values={i: f"cluster {i}" for i in range(size)}, fill_value=dice.IGNORE, overwrite=True,
        )  # fmt: skip
    contrast = estimate_contrast(
        test.image, percentiles=tuple(config.data.contrast_percentiles), invert=config.data.invert, seed=config.seed
    )
    began = time.perf_counter()
    with ome_zarr.writing(folder):
        cluster_classical(
            test.image, kind, sizes, lambda size, where, labels: arrays[size][where].write(labels).result(),
            contrast=contrast, mask=test.mask if config.segment.within_mask else None, seed=config.seed,
            fraction=config.segment.fraction, block=config.segment.block, restarts=config.segment.restarts,
        )  # fmt: skip
    seconds = {"segment": time.perf_counter() - began}
    confusions = {
        size: dice.confusion(open_volume(paths[size], image=False), test.labels, size, len(test.class_names))
        for size in sizes
    }
    return _block(confusions, config.segment.clusters, test.class_names, seconds)


class _Slab:
    """A few z slices of a volume, as a volume: what the curve scores at each checkpoint."""

    def __init__(self, volume, z_of):
        self.name, self.dtype, self.voxel_size_nm = volume.name, volume.dtype, volume.voxel_size_nm
        self.shape = (len(z_of), *volume.shape[1:])
        self._array = np.concatenate([volume.read((slice(z, z + 1), slice(None), slice(None))) for z in z_of])

    def read(self, slices):
        return self._array[slices]


def dsc_curve(config, test, workdir, log):
    """One-to-one DSC of every kept checkpoint on a few slices (paper's Fig. 3).

    Each checkpoint gets its own centres, fitted on the same voxels. The curve is shown; it
    chooses nothing: the score of a run is always that of its last checkpoint.
    """
    checkpoints = Checkpoints(workdir, config)
    depth, count = test.image.shape[0], config.evaluate.curve_slices
    z_of = np.unique(((np.arange(count) + 0.5) * depth / count).astype(int))
    image, labels = _Slab(test.image, z_of), _Slab(test.labels, z_of)
    mask = labels if config.segment.within_mask else None
    # As many voxels as the real fit would draw, from fewer slices.
    fraction = min(1.0, config.segment.fraction * depth / len(z_of))
    curve = []
    for step in checkpoints.steps():
        segmenter = make_segmenter(config, checkpoints, step, test.image)
        features = segmenter.sample_features(image, len(z_of), fraction, config.seed, mask)
        centres = centre_files.fit(features, config.segment.clusters, config.segment.restarts, config.seed)
        found = np.empty(image.shape, np.uint8)

        def write(_, where, block, found=found):
            found[where] = block

        segmenter.label(image, {config.segment.clusters: centres}, write)
        clusters = _Slab.__new__(_Slab)
        clusters.__dict__.update(image.__dict__, _array=found, dtype=found.dtype)
        confusion = dice.confusion(clusters, labels, config.segment.clusters, len(test.class_names))
        curve.append({"step": int(step), "dsc": _score(confusion, test.class_names)})
        log(f"evaluate: step {step}: mean DSC {curve[-1]['dsc']['one_to_one']['mean']:.3f} on {len(z_of)} slices")
    checkpoints.close()
    return curve


def evaluate(config, test, workdir, log):
    """Score the segmentation in the workdir; returns `(metrics, assignment)`.

    `metrics` is the content of metrics.json; `assignment` the class of each headline
    cluster (or None) by one-to-one matching, for the pictures.
    """
    need_checkpoint(workdir)
    sizes = sorted({config.segment.clusters, *config.evaluate.clusters})
    facts = segmented(workdir, sizes)
    if facts["volume"] != test.image.name:
        raise UserError(
            f"{pathlib.Path(workdir) / 'segment.json'}: the labels are of {facts['volume']}, not of "
            f"{test.image.name}; run --mode=segment with this config again"
        )
    headline = config.segment.clusters
    confusions = {}
    for size in sizes:
        clusters = open_volume(label_path(workdir, size, headline), image=False)
        confusions[size] = dice.confusion(clusters, test.labels, size, len(test.class_names))
    checkpoints = Checkpoints(workdir, config)
    seconds = {"train": checkpoints.about(facts["step"])["seconds"], "segment": facts["seconds"]}
    checkpoints.close()
    metrics = {"method": "his4mae", **_block(confusions, headline, test.class_names, seconds)}
    metrics["baselines"] = {}
    for kind in config.evaluate.baselines:
        log(f"evaluate: baseline {kind} with k-means")
        metrics["baselines"][kind] = _baseline(kind, config, test, sizes, workdir)
    if config.evaluate.curve_slices:
        metrics["curve"] = dsc_curve(config, test, workdir, log)
    shutil.rmtree(pathlib.Path(workdir) / "baselines", ignore_errors=True)  # scored: only figures are kept
    return metrics, dice.one_to_one(confusions[headline], test.class_names).assignment
