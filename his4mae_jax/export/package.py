"""What is exported: the encoder of one checkpoint, perhaps with centres, and what its input must be."""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import tifffile

from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.export import heads, networks, portable
from his4mae_jax.export.graph import Graph, onnx_module
from his4mae_jax.inference.score_maps import LinearScores

TOLERANCE = 1e-4  # of features, which are of the order of 1; of larger outputs in proportion to them
_DTYPES = {"tokens": np.float32, "scores": np.float32, "token_labels": np.uint8, "labels": np.uint8}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a package comes from.

    Attributes:
      method: pretext method of the training.
      encoder: "student" or "teacher".
      step: of the checkpoint.
      digest: hash of the encoder's parameters.
      window_of: name of the volume that the window of grey levels is of, without its folder.
      percentiles: of grey levels, for the window of another volume.
    """

    method: str
    encoder: str
    step: int
    digest: str
    window_of: str
    percentiles: tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Package:
    """An encoder to export.

    Attributes:
      models: of the pretext method, computing in float32: `encoder` and `patch_size`.
      params: of the encoder.
      window: of grey levels.
      voxel_size_nm: edge of a pixel.
      centres: of C labels, or the classes of a probe; None: the encoder alone.
      names: of the labels, in their order; empty without centres.
      source: where they come from.
    """

    models: Any
    params: Any
    window: Contrast
    voxel_size_nm: float
    centres: Centres | Classes | None
    names: tuple[str, ...]
    source: Source

    @property
    def grid(self) -> int:
        """Tokens per side of a field of view."""
        return self.models.encoder.grid[0]

    @property
    def fov(self) -> int:
        """Pixels per side of a field of view."""
        return self.grid * self.models.patch_size

    @property
    def features(self) -> int:
        """Features D of a token."""
        return self.models.encoder.embed_dim

    @property
    def linear(self) -> LinearScores | None:
        """The scores of the centres."""
        return None if self.centres is None else self.centres.linear()

    @property
    def score_text(self) -> str:
        """What a score is."""
        if isinstance(self.centres, Classes):
            return "minus the logit of each class"
        return "the squared distance to each centre, up to a term that all centres share"

    @property
    def centre_names(self) -> list[str]:
        """A name for each centre: that of its label, with a number where several centres share one."""
        labels = [self.names[number - 1] for number in heads.numbers(self.linear)]
        if len(set(labels)) == len(labels):
            return labels
        return [f"{name} (centre {i})" for i, name in enumerate(labels, 1)]

    @property
    def parameters(self) -> int:
        """How many parameters the encoder has."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))

    def programs(self) -> dict[str, Callable]:
        """ "encoder", and "segmenter" where there are centres: functions of fields of view `(N, F, F)` in [0, 1].

        The encoder's returns `{"tokens": ...}`, the segmenter's is `portable.segmenter`.
        """
        encode = portable.encoder(self.models, self.params)
        programs = {"encoder": lambda images_NxFxF: {"tokens": encode(images_NxFxF)}}
        if self.centres is not None:
            programs["segmenter"] = portable.segmenter(self.models, self.params, self.linear)
        return programs

    def onnx(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """The ONNX model of a program.

        Args:
          name: "encoder" or "segmenter".
          shapes: of its outputs without the batch.
        """
        graph, grid = Graph(), self.models.encoder.grid
        tokens = networks.tokens(graph, self.models, self.params, "image")
        if name == "encoder":
            graph.op("Reshape", tokens, graph.constant(np.array([0, *grid, shapes["tokens"][-1]])), outputs=["tokens"])
        else:
            heads.cluster_scores(graph, tokens, self.linear, grid, self.models.patch_size)
        outputs = {key: (_DTYPES[key], *shape) for key, shape in shapes.items()}
        text = f"Fields of view in [0, 1] to {', '.join(outputs)}; export.json and README.md beside it say more."
        return graph.model({"image": (np.float32, 1, self.fov, self.fov)}, outputs, text)

    def test_image(self) -> np.ndarray:
        """Smooth noise in the window's grey levels, `(1, F, F)` float32: no part of the user's images."""
        noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(self.fov,) * 2), 1.5)
        grey = (noise - noise.min()) / np.ptp(noise)
        return (self.window.low + grey * (self.window.high - self.window.low)).astype(np.float32)[None]


def evaluate(program: Callable, grey: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a program for fields of view in [0, 1], float32 throughout on every device."""
    with jax.default_matmul_precision("highest"):
        return {key: np.asarray(value) for key, value in jax.jit(program)(jnp.asarray(grey)).items()}


def difference(model: Any, grey: np.ndarray, expected: Mapping[str, np.ndarray]) -> float:
    """Runs ONNX's own evaluator on fields of view, and compares it with what JAX gave.

    Args:
      model: `onnx.ModelProto`.
      grey: `(N, F, F)` in [0, 1].
      expected: outputs by name.

    Returns:
      The largest difference of any float output, relative to that output's largest value where that is above 1.

    Raises:
      RuntimeError: it is above `TOLERANCE`.
    """
    onnx_module()
    from onnx.reference import ReferenceEvaluator

    found = ReferenceEvaluator(model).run(list(expected), {"image": grey[:, None]})
    worst = 0.0
    for values, (name, wanted) in zip(found, expected.items(), strict=True):
        if wanted.dtype.kind == "f":
            worst = max(worst, float(np.max(np.abs(values - wanted)) / max(1.0, np.max(np.abs(wanted)))))
        elif values.shape != wanted.shape:
            raise RuntimeError(f"output {name} of the ONNX graph is {values.shape}, but {wanted.shape} in JAX")
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the ONNX graph differs from JAX by {worst:.1e}, more than {TOLERANCE:g}")
    return worst


def npy(array: np.ndarray) -> bytes:
    """The array as the content of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tiff(array: np.ndarray) -> bytes:
    """The only element of a batch, `(1, ...)`, as the content of a TIFF file."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array[0], photometric="minisblack")
    return stream.getvalue()
