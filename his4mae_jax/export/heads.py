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
      linear: scores of C centres.
      grid: tokens per side, (rows, columns).
      patch: pixels per side of a token.
    """
    rows, columns = grid
    maps = graph.op("MatMul", tokens, graph.constant(linear.weights_CxD.T, "centres.weights"))
    maps = graph.op("Add", maps, graph.constant(linear.offset_C, "centres.offset"))
    shape = graph.constant(np.array([0, len(linear.offset_C), rows, columns]))
    scores = graph.op("Reshape", graph.transpose(maps, 0, 2, 1), shape, outputs=["scores"])
    number = graph.constant(numbers(linear), "centres.label")
    _labels(graph, scores, number, "token_labels", keepdims=0)
    down = graph.constant(expansion_weights(rows, patch), "expansion.rows")
    across = graph.constant(expansion_weights(columns, patch).T, "expansion.columns")
    _labels(graph, graph.op("MatMul", graph.op("MatMul", down, scores), across), number, "labels", keepdims=1)


def _labels(graph: Graph, maps: str, number: str, name: str, keepdims: int) -> None:
    centre = graph.op("ArgMin", maps, axis=1, keepdims=keepdims)
    graph.op("Gather", number, centre, axis=0, outputs=[name])


def numbers(linear: LinearScores) -> np.ndarray:
    """The label that each centre stands for, uint8, as label volumes have it: from 1 on, 0 is not labelled."""
    group_C = np.arange(len(linear.offset_C)) if linear.group_C is None else np.asarray(linear.group_C)
    return (group_C + 1).astype(np.uint8)
