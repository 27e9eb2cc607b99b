r"""Dice of the probe (`his4mae probe`) against the number of labels, beside what else can be made of the same labels.

    python benchmarks/probe_labels.py --workdir runs/epfl --json runs/probe_labels.json

Takes the encoder of a training, and the volume and ground truth that its config names (data.test, data.test_labels).
Labels lie left of the middle in x, Dice is that of the right part, at voxels drawn at random. Labels are a share of the
left part's voxels at random, or clicks: one of each class, then at random ("random"); or half of them so, and the other
half where the rule of suggest.csv places them, in five rounds ("suggested"); or as many in each class ("by class").
The columns:

- linear, hidden 64: `probe.classifier.fit_classifier`, applied to the token lattice as `his4mae segment` applies it.
- by hand: scikit-learn's LogisticRegression on standardised features, its C chosen by the same folds; with the weights
  and the cut of the probe, and plain. MLPClassifier with 64 hidden units, plain.
- forest: a random forest on filter features of the image (`filter_forest.py`).

The volume is encoded once. Prints Markdown: mean ± standard deviation over draws.
"""

import argparse
import contextlib
import functools
import pathlib
import sys
import time

import numpy as np
import sklearn
from filter_forest import ALL_SIGMAS, filter_features, fit_forest
from probe_by_hand import fit_by_hand, fit_mlp
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.anisotropy import coarse_axis
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.inference.trained import load
from his4mae_jax.library.encoder import Encoder
from his4mae_jax.output.plan import bind_to
from his4mae_jax.probe.classifier import fit_classifier
from his4mae_jax.probe.heads import Head
from his4mae_jax.probe.suggest import least_sure
from his4mae_jax.training.run.checkpoints import Checkpoints

ROUNDS = 5  # of suggestions
SAMPLE = 10_000  # random voxels of the volume for the fractions of classes, and of the left part for suggestions
FORESTS = {"forest": {}, "forest, all": {"sigmas": ALL_SIGMAS, "every_eigenvalue": True}}
MOST = 20_000  # labels of a class, `probe.voxels`


class Scene:
    """One encoded volume with its ground truth, and where labels and tests lie."""

    def __init__(self, workdir: pathlib.Path, tests: int, smooth: float | None = None, texture: float | None = 0.0):
        """Args:
        workdir: of a training whose config names ground truth.
        tests: voxels of the right part that are scored, at most.
        smooth: in place of the config's `segment.smooth`.
        texture: see `Coverage.texture`; None: the config's `probe.texture`.
        """
        config = Encoder.load(workdir).config
        if smooth is not None:
            config.segment.smooth = smooth
        target = datasets.target(config, workdir, need_labels=True)
        with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
            trained = load(checkpoints, checkpoints.steps()[-1], config.segment.encoder)
        encoder, _ = bind_to(trained, target.image, config.segment, config.seed)
        encoder = encoder.textured(config.probe.texture if texture is None else texture)
        began = time.perf_counter()
        self.lattice, self.positions = encoder.features(target.image)
        self.seconds = time.perf_counter() - began
        box = tuple(slice(0, n) for n in target.image.shape)
        self.image, self.truth = target.image.read(box), target.labels.read(box)
        self.shape, self.names = self.truth.shape, list(target.class_names)
        rng, known = np.random.default_rng(0), self.truth != IGNORE
        left = np.arange(self.shape[2]) < self.shape[2] // 2
        self.left, self.right = np.flatnonzero(known & left), np.flatnonzero(known & ~left)
        self.tests = self.index(np.sort(rng.choice(self.right, min(tests, len(self.right)), replace=False)))
        self.test_truth = self.truth[tuple(self.tests.T)]
        self.sample = np.stack([rng.integers(0, n, SAMPLE) for n in self.shape], axis=1)
        self.unlabelled = self.features(self.sample)
        self.voxel_size_nm = target.image.voxel_size_nm
        self.axes = (0, 1, 2) if coarse_axis(target.image) is None else (1, 2)

    def index(self, flat_M: np.ndarray) -> np.ndarray:
        """`(M, 3)` of flat numbers."""
        return np.stack(np.unravel_index(flat_M, self.shape), axis=1)

    def features(self, index_Mx3: np.ndarray) -> np.ndarray:
        """Features as they are clustered, `(M, D)`."""
        return interpolated(self.lattice, self.positions, index_Mx3)

    @functools.cached_property
    def test_features(self) -> np.ndarray:
        return self.features(self.tests)

    def dice(self, chosen_M: np.ndarray) -> list[float]:
        """Dice of each class at the tests."""
        pairs = [(chosen_M == k, self.test_truth == k) for k in range(len(self.names))]
        return [float(2 * np.sum(a & b) / max(np.sum(a) + np.sum(b), 1)) for a, b in pairs]

    def applied(self, head: Head) -> np.ndarray:
        """Classes of the tests by a head that is applied to the lattice, as `segment` does."""
        logits = head.logits(self.lattice.reshape(-1, self.lattice.shape[-1]))
        logits = logits.reshape(*self.lattice.shape[:3], -1)
        return interpolated(logits, self.positions, self.tests).argmax(axis=1)


def interpolated(lattice: np.ndarray, positions: tuple[np.ndarray, ...], index_Mx3: np.ndarray) -> np.ndarray:
    """Linear interpolation of a lattice `(z, y, x, F)`, whose points lie at `positions`, to M voxels."""
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        where, weight = [], np.ones(len(index_Mx3), np.float32)
        for axis, up in enumerate(corner):
            at, v = positions[axis], index_Mx3[:, axis]
            lower = np.clip(np.searchsorted(at, v, side="right") - 1, 0, max(len(at) - 2, 0))
            upper = np.minimum(lower + 1, len(at) - 1)
            part = np.clip((v - at[lower]) / np.maximum(at[upper] - at[lower], 1e-9), 0, 1).astype(np.float32)
            where.append(upper if up else lower)
            weight = weight * (part if up else 1 - part)
        total = total + weight[:, None] * lattice[tuple(where)]
    return total


def share(scene: Scene, part: float, seed: int) -> np.ndarray:
    """Labelled voxels `(M, 3)`: a share of the left part at random, of each class at most `MOST`."""
    rng = np.random.default_rng([seed, 1])
    flat = rng.choice(scene.left, max(round(part * len(scene.left)), 1), replace=False)
    classes = scene.truth.ravel()[flat]
    return scene.index(np.concatenate([flat[classes == k][:MOST] for k in np.unique(classes)]))


def clicks(scene: Scene, count: int, seed: int) -> np.ndarray:
    """Voxels `(count, 3)` in an order that does not depend on `count`: one of each class, then at random."""
    rng, classes = np.random.default_rng([seed, 2]), scene.truth.ravel()[scene.left]
    seeds = [rng.choice(scene.left[classes == k]) for k in np.unique(classes)]
    return scene.index(np.concatenate([rng.permutation(seeds), rng.choice(scene.left, 1000, replace=False)])[:count])


def suggested(scene: Scene, count: int, seed: int) -> np.ndarray:
    """Half of the clicks as `clicks`, the others where the linear probe suggests, in rounds."""
    labelled = clicks(scene, count - count // 2, seed)
    candidates = scene.index(np.random.default_rng([seed, 3]).choice(scene.left, SAMPLE))
    features = scene.features(candidates)
    for part in np.array_split(np.arange(count // 2), min(ROUNDS, count // 2)):
        head = _fit(scene, labelled, 0, seed)[0].head
        labelled = np.concatenate(
            [labelled, candidates[least_sure(head.logits(features), candidates, labelled, len(part))]]
        )
    return labelled


def by_class(scene: Scene, count: int, seed: int) -> np.ndarray:
    """Clicks at random within each class, as many in each."""
    rng, classes = np.random.default_rng([seed, 4]), scene.truth.ravel()[scene.left]
    present = np.unique(classes)
    parts = zip(present, np.array_split(np.arange(count), len(present)), strict=True)
    return scene.index(np.concatenate([rng.choice(scene.left[classes == k], len(p), replace=False) for k, p in parts]))


def _fit(scene, labelled, hidden, seed):
    """The probe on the classes that have labels, and their numbers."""
    truth = scene.truth[tuple(labelled.T)]
    present, classes = np.unique(truth, return_inverse=True)
    fitted = fit_classifier(
        scene.features(labelled), classes, labelled, scene.unlabelled, hidden=hidden, seed=seed, log=lambda line: None
    )
    return fitted, present


def label_sets(scene: Scene, shares: list[float], counts: list[int], draws: int) -> dict[str, list[np.ndarray]]:
    """Labelled voxels of each draw, by how they were placed."""
    sets = {f"{100 * part:g} % at random": [share(scene, part, seed) for seed in range(draws)] for part in shares}
    for count in counts:
        for name, place in (("random", clicks), ("suggested", suggested), ("by class", by_class)):
            sets[f"{count} clicks, {name}"] = [place(scene, count, seed) for seed in range(draws)]
    return sets


def filters_at(scene: Scene, sets: dict[str, list[np.ndarray]]) -> dict[str, tuple[dict, np.ndarray]]:
    """For each forest the features at the labels, `{id of a label set: (M, F)}`, and at the tests."""
    labelled = [x for draws in sets.values() for x in draws]
    out = {}
    for name, how in FORESTS.items():
        values = filter_features(scene.image, np.concatenate([scene.tests, *labelled]), axes=scene.axes, **how)
        tests, *rest = np.split(values, np.cumsum([len(scene.tests), *map(len, labelled)])[:-1])
        out[f"{name}, {values.shape[1]} filters"] = {id(x): v for x, v in zip(labelled, rest, strict=True)}, tests
    return out


def scores(scene: Scene, labelled: np.ndarray, filters: dict, seed: int) -> dict[str, list[float]]:
    """Dice of each class by every row of the table, from the same labels."""
    truth, out = scene.truth[tuple(labelled.T)], {}
    for name, hidden in (("linear", 0), ("hidden 64", 64)):
        fitted, present = _fit(scene, labelled, hidden, seed)
        out[name] = scene.dice(present[scene.applied(fitted.head)])
    present, classes = np.unique(truth, return_inverse=True)
    z = scene.features(labelled)
    for name, as_probe in (("linear by hand, weights and cut", True), ("linear by hand, plain", False)):
        predict = fit_by_hand(z, classes, labelled, scene.unlabelled, seed, as_probe=as_probe)
        out[name] = scene.dice(present[predict(scene.test_features)])
    out["hidden 64 by hand, plain"] = scene.dice(present[fit_mlp(z, classes, seed)(scene.test_features)])
    for name, (at_labels, tests) in filters.items():
        out[name] = scene.dice(present[fit_forest(at_labels[id(labelled)], classes, seed).predict(tests)])
    return out


def table(results: dict[str, dict[str, list[list[float]]]], names: list[str]) -> list[str]:
    """Markdown: a row for each way to place labels, a column for each method; then one table for each class.

    Args:
      results: by placement and method the Dice of each class, for each draw.
      names: of the classes. With two, the second alone is scored.
    """
    scored = [1] if len(names) == 2 else list(range(len(names)))
    blocks = (
        [(names[1], [1])] if len(names) == 2 else [("mean of the classes", scored)] + [(names[k], [k]) for k in scored]
    )
    lines = []
    for title, which in blocks:
        methods = list(next(iter(results.values())))
        lines += ["", f"Dice, {title}:", "", f"| labels | {' | '.join(methods)} |", "|---|" + "---:|" * len(methods)]
        for placed, by_method in results.items():
            cells = []
            for method in methods:
                draws = np.array(by_method[method])[:, which].mean(axis=1)
                cells.append(f"{draws.mean():.3f} ± {draws.std():.3f}")
            lines.append(f"| {placed} | {' | '.join(cells)} |")
    return lines


def numbers(text: str) -> list[float]:
    return [float(n) for n in text.split(",") if n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="of a training")
    parser.add_argument("--shares", type=numbers, default=[1e-4, 5e-4, 2e-3], help="of the left part's voxels")
    parser.add_argument("--clicks", type=numbers, default=[10, 30, 100, 300], help="numbers of clicks")
    parser.add_argument("--draws", type=int, default=5, help="of labels")
    parser.add_argument("--texture", type=float, help="of the features (default: the config's probe.texture)")
    parser.add_argument("--tests", type=int, default=200_000, help="voxels scored")
    add_json_option(parser)
    args = parser.parse_args()
    about = {**machine(), "scikit-learn": sklearn.__version__}
    print(one_line(about), flush=True)
    scene = Scene(args.workdir, args.tests, texture=args.texture)
    print(
        f"{args.workdir}: {' x '.join(map(str, scene.shape))} voxels, encoded in {scene.seconds:.1f} s; "
        f"{len(scene.left):,} left, {len(scene.tests):,} of {len(scene.right):,} right are scored; of these "
        + ", ".join(f"{100 * np.mean(scene.test_truth == k):.1f} % {name}" for k, name in enumerate(scene.names)),
        flush=True,
    )
    sets = label_sets(scene, args.shares, [round(n) for n in args.clicks], args.draws)
    filters, results = filters_at(scene, sets), {}
    for placed, draws in sets.items():  # the numbers so far are kept: it takes many minutes
        each = [scores(scene, labelled, filters, seed) for seed, labelled in enumerate(draws)]
        results[placed] = {method: [draw[method] for draw in each] for method in each[0]}
        print(f"{placed}: {np.mean([len(d) for d in draws]):.0f} labels", file=sys.stderr, flush=True)
        write_json(args.json, {**about, **options(args, "workdir"), "names": scene.names, "dice": results})
    print("\n".join(table(results, scene.names)))


if __name__ == "__main__":
    main()
