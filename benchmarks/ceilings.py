r"""What limits the labels of trained encoders: the lattice of tokens, the features, the cut, or the clustering.

    python benchmarks/ceilings.py runs/seed0 runs/seed1 runs/seed2 --json runs/ceilings.json

Takes the encoder of each training, and the volume and ground truth that its config names (data.test, data.test_labels).
Dice of each class, at voxels drawn at random, mean ± standard deviation over the trainings:

- lattice, half and best cut: the ground truth itself, averaged over each token, smoothed as the tokens are
  (segment.smooth) and expanded linearly: what perfect tokens would give, cut at one half or where Dice is best.
- linear, hidden 64: a classifier on the features of one half of the volume (x below the middle), scored on the other,
  and the other way round; each class cut against the rest where Dice is best in the half that is scored ("best cut"),
  or in the half that was fitted ("own cut"). The difference is what the cut costs.
- texture: the same with the standard deviation of each feature beside its mean, within a Gaussian of --texture tokens:
  what the spread of tokens around a voxel says beyond their mean.
- k-means: the labels without labels, from the metrics.json of `his4mae evaluate`, one to one; C is in the heading.
"""

import argparse
import functools
import json
import pathlib
import types

import jax
import numpy as np
from probe_labels import Scene, interpolated
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.inference.lattice import reach, smooth, smoothing_matrix
from his4mae_jax.library.encoder import Encoder
from his4mae_jax.probe.heads import fit_hidden, fit_linear

STRENGTH, DECAY, WIDTH = 1.0, 1.0, 64
EDGE = 1e-6


def best_cut(score_M: np.ndarray, truth_M: np.ndarray) -> tuple[float, float]:
    """The highest Dice of `score >= cut` over all cuts, and that cut."""
    order = np.argsort(-score_M, kind="stable")
    hits, chosen = np.cumsum(truth_M[order]), np.arange(1, len(order) + 1)
    dice = 2 * hits / (chosen + truth_M.sum())
    # Voxels of one score are cut off together.
    dice[:-1][score_M[order][:-1] == score_M[order][1:]] = -1
    best = int(dice.argmax())
    return float(dice[best]), float(score_M[order[best]])


def dice_at(score_M: np.ndarray, truth_M: np.ndarray, cut: float) -> float:
    """Dice of `score >= cut`."""
    chosen = score_M >= cut
    return float(2 * np.sum(chosen & truth_M) / max(np.sum(chosen) + np.sum(truth_M), 1))


def token_means(mask: np.ndarray, positions: tuple[np.ndarray, ...]) -> np.ndarray:
    """Means of a volume over the voxels of each token of a lattice, whose centres lie at `positions`."""
    out = mask.astype(np.float32)
    for axis, at in enumerate(positions):
        at = np.asarray(at, np.float64)
        side = at[1] - at[0] if len(at) > 1 else 1.0
        voxel = np.arange(mask.shape[axis])
        low, high = np.maximum(at[:, None] - side / 2, voxel - 0.5), np.minimum(at[:, None] + side / 2, voxel + 0.5)
        weight = np.maximum(high - low, 0)
        total = weight.sum(axis=1, keepdims=True)
        nearest = np.abs(at[:, None] - voxel) == np.abs(at[:, None] - voxel).min(axis=1, keepdims=True)
        weight = np.where(total > EDGE, weight / np.maximum(total, EDGE), nearest / nearest.sum(axis=1, keepdims=True))
        out = np.moveaxis(np.tensordot(weight.astype(np.float32), out, (1, axis)), 0, axis)
    return out


def smoothed(scene: Scene, lattice: np.ndarray, sigma: float) -> np.ndarray:
    """A lattice `(z, y, x, ...)` under a Gaussian of `sigma` tokens, of the same width in nm along each axis."""
    if not sigma:
        return lattice
    sides = [
        (at[1] - at[0] if len(at) > 1 else 1) * nm for at, nm in zip(scene.positions, scene.voxel_size_nm, strict=True)
    ]
    scales = [sides[-1] / side for side in sides]
    matrices = [
        smoothing_matrix(types.SimpleNamespace(points=points, scale=scale), sigma)
        for points, scale in zip(lattice.shape, scales, strict=False)
    ]
    many = lattice.reshape(*lattice.shape[:3], -1)
    out = jax.jit(lambda x: smooth(x, matrices, [reach(sigma, scale) for scale in scales]))(many)
    return np.asarray(out).reshape(lattice.shape)


def spread(scene: Scene, sigma: float) -> np.ndarray:
    """The texture of tokens: the standard deviation of each feature in a Gaussian of `sigma` tokens."""
    variance = smoothed(scene, scene.lattice**2, sigma) - smoothed(scene, scene.lattice, sigma) ** 2
    return np.sqrt(np.maximum(variance, EDGE))


class Ceilings:
    """Dice of each class by row, for one training."""

    def __init__(self, workdir: pathlib.Path, fitted: int, tests: int, texture: float):
        """Args:
        workdir: of a training whose config names ground truth.
        fitted: voxels of each half that classifiers are fitted on.
        tests: voxels of each half that are scored.
        texture: sigma in tokens, see the script.
        """
        self.scene = Scene(workdir, 1, smooth=0.0)
        self.config, rng = Encoder.load(workdir).config, np.random.default_rng(0)
        self.mean = smoothed(self.scene, self.scene.lattice, self.config.segment.smooth)
        self.textured = np.concatenate([self.mean, spread(self.scene, texture)], axis=-1)
        halves = self.scene.left, self.scene.right
        drawn = [rng.permutation(half)[: fitted + tests] for half in halves]
        self.fits = [self.scene.index(flat[: len(flat) - tests]) for flat in drawn]
        self.tests = [self.scene.index(flat[len(flat) - tests :]) for flat in drawn]
        self.classes = range(len(self.scene.names))

    def rows(self) -> dict[str, list[float]]:
        """Dice of each class by name of the row."""
        out = self.lattice()
        for name, fit in (
            ("linear", lambda z, y: fit_linear(z, y, STRENGTH)),
            (f"hidden {WIDTH}", lambda z, y: fit_hidden(z, y, DECAY, width=WIDTH)),
        ):
            for lattice, added in ((self.mean, ""), (self.textured, " + texture")):
                ways = [self.classified(fit, lattice, one, 1 - one) for one in (0, 1)]
                for column, row in enumerate(("best cut", "own cut")):
                    out[f"{name}{added}, {row}"] = np.mean([way[column] for way in ways], axis=0).tolist()
        return out

    def lattice(self) -> dict[str, list[float]]:
        """Dice of the ground truth on the lattice, by cut."""
        points, half, best = np.concatenate(self.tests), [], []
        for k in self.classes:
            truth = self.truth(points) == k
            mean = token_means(self.scene.truth == k, self.scene.positions)
            mean = smoothed(self.scene, mean, self.config.segment.smooth)
            score = interpolated(mean[..., None], self.scene.positions, points)[:, 0]
            half.append(dice_at(score, truth, 0.5))
            best.append(best_cut(score, truth)[0])
        return {"lattice, half": half, "lattice, best cut": best}

    def classified(self, fit, lattice: np.ndarray, learn: int, score: int) -> tuple[list[float], list[float]]:
        """Dice of each class in one half, by a classifier of the other half's features: at the best cut, at its own."""
        features = functools.partial(interpolated, lattice, self.scene.positions)
        index, tests = self.fits[learn], self.tests[score]
        present, classes = np.unique(self.truth(index), return_inverse=True)
        head = fit(features(index), classes)
        own, other = (head.logits(features(at)) for at in (index, tests))
        best, kept = [], []
        for k in self.classes:
            at = np.flatnonzero(present == k)
            if not len(at):
                best.append(0.0), kept.append(0.0)
                continue
            margin = [logits[:, at[0]] - np.delete(logits, at[0], axis=1).max(axis=1) for logits in (own, other)]
            cut = best_cut(margin[0], classes == at[0])[1]
            truth = self.truth(tests) == k
            best.append(best_cut(margin[1], truth)[0])
            kept.append(dice_at(margin[1], truth, cut))
        return best, kept

    def truth(self, index_Mx3: np.ndarray) -> np.ndarray:
        return self.scene.truth[tuple(index_Mx3.T)]


def without_labels(workdir: pathlib.Path, names: list[str]) -> dict[str, list[float]]:
    """Dice of each class by the clusters of a run, by number of clusters; empty where nothing is scored."""
    out = {}
    for path in sorted(workdir.glob("volumes/*/metrics.json")):
        for clusters, dsc in json.loads(path.read_text()).get("by_clusters", {}).items():
            out[f"k-means, C = {clusters}"] = [dsc["one_to_one"].get(name) or 0.0 for name in names]
    return dict(sorted(out.items(), key=lambda row: int(row[0].split()[-1])))


def table(rows: dict[str, list[list[float]]], names: list[str]) -> list[str]:
    """Markdown: a row for each ceiling, a column for each class and their mean."""
    lines = [f"| Dice | {' | '.join(names)} | mean |", "|---|" + "---:|" * (len(names) + 1)]
    for name, seeds in rows.items():
        values = np.array(seeds)
        values = np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=pathlib.Path, nargs="+", help="trainings, of several seeds")
    parser.add_argument("--fitted", type=int, default=50_000, help="voxels of each half that classifiers are fitted on")
    parser.add_argument("--tests", type=int, default=100_000, help="voxels of each half that are scored")
    parser.add_argument("--texture", type=float, default=1.5, help="sigma in tokens, see above")
    add_json_option(parser)
    args = parser.parse_args()
    about, rows = machine(), {}
    print(one_line(about), flush=True)
    for workdir in args.workdirs:
        ceilings = Ceilings(workdir, args.fitted, args.tests, args.texture)
        names = ceilings.scene.names
        for name, dice in (ceilings.rows() | without_labels(workdir, names)).items():
            rows.setdefault(name, []).append(dice)
        write_json(args.json, {**about, **options(args, "workdirs"), "names": names, "dice": rows})
    print("\n".join(table(rows, names)))


if __name__ == "__main__":
    main()
