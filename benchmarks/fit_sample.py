r"""Dice of clusters against the number of voxels that their centres are fitted on.

    python benchmarks/fit_sample.py runs/demo --clusters 4,6
    python benchmarks/fit_sample.py runs/demo --clusters 4 --voxels 30000 --texture 1.5

Takes the encoder of a training, and the volume and ground truth that its config names (data.test, data.test_labels).
Voxels are drawn inside the mask of the fit where the data have one; centres are fitted as `his4mae segment` fits them,
with whitening, but for noise, which is that between neighbouring tokens alone. With --texture the standard deviation of
each feature in a Gaussian of so many tokens stands beside its mean. Prints Markdown: mean over the classes (of two
classes, the second), clusters and classes matched one to one, mean ± standard deviation over draws.
"""

import argparse
import pathlib

import numpy as np
from ceilings import smoothed, spread
from probe_labels import Scene, interpolated, numbers
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.clustering.clusters import from_features
from his4mae_jax.clustering.fit import fit_mask
from his4mae_jax.clustering.whitening import noise_whitening
from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.evaluation.scores import by_matching
from his4mae_jax.library.encoder import Encoder

RESTARTS, TESTS, STEPS = 4, 100_000, 10_000  # of k-means; voxels scored; differences of tokens along each axis


class Clusters:
    """Fits and scores clusters of one encoded volume."""

    def __init__(self, workdir: pathlib.Path, texture: float):
        """Args:
        workdir: of a training whose config names ground truth.
        texture: sigma in tokens; 0: none.
        """
        self.scene, config = Scene(workdir, TESTS, smooth=0.0), Encoder.load(workdir).config
        target = datasets.target(config, workdir, need_labels=True)
        lattice, mean = self.scene.lattice, smoothed(self.scene, self.scene.lattice, config.segment.smooth)
        if texture:
            more = spread(self.scene, texture)
            lattice, mean = (np.concatenate([x, more], axis=-1) for x in (lattice, mean))
        self.lattice, rng = mean, np.random.default_rng(0)
        mask = fit_mask(config, target.labels)
        box = tuple(slice(0, n) for n in self.scene.shape)
        inside = self.scene.truth if mask is None else mask.read(box)
        self.fitted = np.flatnonzero(inside != IGNORE)
        known = np.flatnonzero(self.scene.truth != IGNORE)
        self.tests = self.scene.index(rng.choice(known, TESTS))
        self.truth, self.tested = self.scene.truth[tuple(self.tests.T)], self.features(self.tests)
        steps = [np.diff(lattice, axis=axis).reshape(-1, lattice.shape[-1]) for axis in self.scene.axes]
        self.noise = np.concatenate([each[rng.choice(len(each), STEPS)] for each in steps])

    def features(self, index_Mx3: np.ndarray) -> np.ndarray:
        return interpolated(self.lattice, self.scene.positions, index_Mx3)

    def dice(self, clusters: int, voxels: int, seed: int) -> float:
        """Dice of centres fitted on one draw of voxels."""
        drawn = np.random.default_rng(seed).choice(self.fitted, voxels, replace=False)
        z = self.features(self.scene.index(drawn))
        white = noise_whitening(z, self.noise)[:, :clusters]
        centres = from_features(z, clusters, RESTARTS, seed, white, mixture=True, log=lambda line: None)
        maps = centres.linear()
        label = np.argmin(maps.offset_C + self.tested @ maps.weights_CxD.T, axis=1)
        names = self.scene.names
        rows = clusters + 1  # the last is for voxels without a cluster: none
        confusion = np.bincount(label * len(names) + self.truth, minlength=rows * len(names))
        dice = by_matching(confusion.reshape(rows, len(names)), names)["one_to_one"]
        return dice["mean"] if len(names) > 2 else dice[names[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path, help="of a training")
    parser.add_argument("--clusters", type=numbers, default=[4, 6], help="numbers of clusters")
    parser.add_argument("--voxels", type=numbers, default=[300, 1000, 3000, 10_000, 30_000], help="fitted on")
    parser.add_argument("--draws", type=int, default=6, help="of voxels")
    parser.add_argument("--texture", type=float, default=0.0, help="sigma in tokens, see above")
    add_json_option(parser)
    args = parser.parse_args()
    about, results = machine(), {}
    print(one_line(about), flush=True)
    fit, sizes = Clusters(args.workdir, args.texture), [round(n) for n in args.clusters]
    print(f"| voxels | {' | '.join(f'C = {size}' for size in sizes)} |\n|---:|{'---:|' * len(sizes)}")
    for voxels in map(round, args.voxels):
        draws = np.array([[fit.dice(size, voxels, seed) for size in sizes] for seed in range(args.draws)])
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(draws.mean(0), draws.std(0), strict=True)]
        print(f"| {voxels:,} | {' | '.join(cells)} |", flush=True)
        results[voxels] = draws.tolist()
        write_json(args.json, {**about, **options(args, "workdir"), "dice": results})


if __name__ == "__main__":
    main()
