"""Cluster centres on top of an encoder as ONNX: score maps, and the nearest cluster of each token and of each pixel."""

import numpy as np

from his4mae_jax.export.graph import Graph
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.models.patches import expansion_weights


def cluster_scores(graph: Graph, tokens: str, linear: LinearScores, grid: tuple[int, int], patch: int) -> None:
    """Adds the outputs "scores", "token_labels" and "labels", as `portable.segmenter` has them.

    Args:
      graph: to add to.
      tokens: the value `(N, g * g, D)`.
      linear: scores of C centres, or of C classes (`clustering.centres.Classes`).
      grid: tokens per side, (rows, columns).
      patch: pixels per side of a token.
    """
    rows, columns = grid
    hidden = None
    if linear.hidden is not None:
        hidden = graph.constant(linear.hidden[0], "hidden.weights"), graph.constant(linear.hidden[1], "hidden.bias")
    last = graph.constant(linear.weights_CxD.T, "centres.weights"), graph.constant(linear.offset_C, "centres.offset")

    def maps(x, height, width, **outputs):
        """Scores `(N, C, height, width)` of features `(N, height * width, ...)`."""
        if hidden is not None:
            x = _gelu_tanh(graph, _affine(graph, x, hidden))
        shape = graph.constant(np.array([0, len(linear.offset_C), height, width]))
        return graph.op("Reshape", graph.transpose(_affine(graph, x, last), 0, 2, 1), shape, **outputs)

    down = graph.constant(expansion_weights(rows, patch), "expansion.rows")
    across = graph.constant(expansion_weights(columns, patch).T, "expansion.columns")

    def expand(x):
        """Channels first, `(N, ..., rows, columns)`, at every pixel."""
        return graph.op("MatMul", graph.op("MatMul", down, x), across)

    scores = maps(tokens, rows, columns, outputs=["scores"])
    number = graph.constant(numbers(linear), "centres.label")
    _labels(graph, scores, number, "token_labels", keepdims=0)
    if hidden is None:
        pixels = expand(scores)
    else:  # scores are not linear in the features: these are expanded
        features = linear.hidden[0].shape[0]
        z = expand(graph.reshape(graph.transpose(tokens, 0, 2, 1), 0, features, rows, columns))
        z = graph.transpose(graph.reshape(z, 0, features, rows * columns * patch**2), 0, 2, 1)
        pixels = maps(z, rows * patch, columns * patch)
    _labels(graph, pixels, number, "labels", keepdims=1)


def _affine(graph: Graph, x: str, layer: tuple[str, str]) -> str:
    return graph.op("Add", graph.op("MatMul", x, layer[0]), layer[1])


def _gelu_tanh(graph: Graph, x: str) -> str:
    """The GELU by tanh, as `score_maps.head_scores` has it."""
    cube = graph.op("Mul", graph.op("Mul", x, x), x)
    inner = graph.op("Add", x, graph.op("Mul", cube, graph.constant(0.044715)))
    tanh = graph.op("Tanh", graph.op("Mul", inner, graph.constant((2 / np.pi) ** 0.5)))
    half = graph.op("Mul", x, graph.constant(0.5))
    return graph.op("Mul", half, graph.op("Add", tanh, graph.constant(1.0)))


def _labels(graph: Graph, maps: str, number: str, name: str, keepdims: int) -> None:
    centre = graph.op("ArgMin", maps, axis=1, keepdims=keepdims)
    graph.op("Gather", number, centre, axis=0, outputs=[name])


def numbers(linear: LinearScores) -> np.ndarray:
    """The label that each centre stands for, uint8, as label volumes have it: from 1 on, 0 is not labelled."""
    group_C = np.arange(len(linear.offset_C)) if linear.group_C is None else np.asarray(linear.group_C)
    return (group_C + 1).astype(np.uint8)
