"""The encoders of `his4mae_jax.models` as ONNX graphs, written from their parameters.

Every constant has the name of its parameter ("transformer.block00.qkv.kernel"). Computation is in float32, whatever
`model.dtype` was in training.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from his4mae_jax.errors import UserError
from his4mae_jax.export.graph import Graph
from his4mae_jax.models.autoencoder import ENCODER_POSITION_SCALE, Encoder
from his4mae_jax.models.kernels.layer_norm import EPSILON
from his4mae_jax.models.patches import sincos_positions
from his4mae_jax.models.segmenter import MASK_NORM_EPS, MaskTransformer, Segmenter, VanillaViT
from his4mae_jax.models.transformer import Transformer
from his4mae_jax.models.vae import VariationalEncoder

GROUP_NORM_EPSILON = 1e-6  # Flax's default
Params = Mapping[str, Any]


def tokens(graph: Graph, models: Any, params: Params, image: str) -> str:
    """Adds an encoder to a graph.

    Args:
      graph: to add to.
      models: of any pretext method: `encoder` and `patch_size`.
      params: of the encoder.
      image: the value `(N, 1, F, F)` in [0, 1].

    Returns:
      The tokens `(N, g * g, D)`, without the cls token.

    Raises:
      UserError: the encoder is of a kind that has no ONNX graph here.
    """
    encoder = models.encoder
    build = BUILDERS.get(type(encoder))
    if build is None:
        raise UserError(
            f"{type(encoder).__name__}: an encoder of this kind cannot be written as ONNX; there are "
            f"{', '.join(kind.__name__ for kind in BUILDERS)}"
        )
    return build(graph, encoder, params, image, models.patch_size)


def _vit(graph: Graph, encoder: Encoder, params: Params, image: str, patch: int, name: str = "") -> str:
    """`models.autoencoder.Encoder` without a mask."""
    rows, columns = encoder.grid
    x = graph.reshape(image, 0, rows, patch, columns, patch)
    x = graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4), 0, rows * columns, patch * patch)
    x = graph.dense(x, params["patch_embed"], f"{name}patch_embed")
    positions_NxD = ENCODER_POSITION_SCALE * np.asarray(sincos_positions(encoder.embed_dim, encoder.grid))
    x = graph.op("Add", x, graph.constant(positions_NxD, f"{name}positions"))
    count = rows * columns
    if encoder.cls_token:
        cls = graph.repeat(np.asarray(params["cls_token"]), x, f"{name}cls_token")
        x, count = graph.op("Concat", cls, x, axis=1), count + 1
    size = Transformer(encoder.embed_dim, encoder.depth, encoder.num_heads, encoder.mlp_ratio)
    x = _transformer(graph, size, params["transformer"], x, count, f"{name}transformer")
    return _slice(graph, x, 1, count) if encoder.cls_token else x


def _transformer(graph: Graph, size: Transformer, params: Params, x: str, count: int, name: str) -> str:
    """`models.transformer.Transformer` on `(N, count, D)`."""
    for i in range(size.depth):
        block, own = params[f"block{i:02d}"], f"{name}.block{i:02d}"
        h = _layer_norm(graph, x, block["norm1"], f"{own}.norm1")
        h = _attention(graph, graph.dense(h, block["qkv"], f"{own}.qkv"), size.num_heads, count, size.dim)
        x = graph.op("Add", x, graph.dense(h, block["proj"], f"{own}.proj"))
        h = _layer_norm(graph, x, block["norm2"], f"{own}.norm2")
        h = _gelu(graph, graph.dense(h, block["fc1"], f"{own}.fc1"))
        x = graph.op("Add", x, graph.dense(h, block["fc2"], f"{own}.fc2"))
    return _layer_norm(graph, x, params["norm"], f"{name}.norm")


def _attention(graph: Graph, qkv: str, heads: int, count: int, dim: int) -> str:
    head = dim // heads
    qkv = graph.transpose(graph.reshape(qkv, 0, count, 3, heads, head), 2, 0, 3, 1, 4)
    q, k, v = (graph.op("Gather", qkv, graph.constant(np.array(i)), axis=0) for i in range(3))
    q = graph.op("Mul", q, graph.constant(head**-0.5))
    weights = graph.op("Softmax", graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2)), axis=-1)
    return graph.reshape(graph.transpose(graph.op("MatMul", weights, v), 0, 2, 1, 3), 0, count, dim)


def _gelu(graph: Graph, x: str) -> str:
    """x Phi(x); ONNX has it as one operation only from opset 20 on."""
    phi = graph.op("Add", graph.op("Erf", graph.op("Mul", x, graph.constant(0.5**0.5))), graph.constant(1.0))
    return graph.op("Mul", graph.op("Mul", x, phi), graph.constant(0.5))


def _layer_norm(graph: Graph, x: str, params: Params, name: str, epsilon: float = EPSILON) -> str:
    scale, bias = (graph.constant(params[key], f"{name}.{key}") for key in ("scale", "bias"))
    return graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def _slice(graph: Graph, x: str, start: int, stop: int) -> str:
    """Positions of axis 1."""
    return graph.op("Slice", x, *(graph.constant(np.array([value])) for value in (start, stop, 1)))


def _vanilla_vit(graph: Graph, encoder: VanillaViT, params: Params, image: str, patch: int) -> str:
    x = _vit(graph, encoder.encoder, params["encoder"], image, patch, "encoder.")
    return graph.dense(x, params["head"], "head")


def _segmenter(graph: Graph, encoder: Segmenter, params: Params, image: str, patch: int) -> str:
    x = _vit(graph, encoder.encoder, params["encoder"], image, patch, "encoder.")
    return _mask_transformer(graph, encoder.decoder, params["decoder"], x, math.prod(encoder.grid))


def _mask_transformer(graph: Graph, decoder: MaskTransformer, params: Params, x: str, patches: int) -> str:
    count = patches + decoder.num_classes
    x = graph.dense(x, params["embed"], "decoder.embed")
    classes = graph.repeat(np.asarray(params["class_tokens"]), x, "decoder.class_tokens")
    size = Transformer(decoder.dim, decoder.depth, decoder.num_heads, decoder.mlp_ratio)
    x = graph.op("Concat", x, classes, axis=1)
    x = _transformer(graph, size, params["transformer"], x, count, "decoder.transformer")
    patch, label = (
        _unit(graph, graph.dense(part, params[key], f"decoder.{key}"))
        for key, part in (
            ("project_patches", _slice(graph, x, 0, patches)),
            ("project_classes", _slice(graph, x, patches, count)),
        )
    )
    cosines = graph.op("MatMul", patch, graph.transpose(label, 0, 2, 1))
    return _layer_norm(graph, cosines, params["mask_norm"], "decoder.mask_norm", MASK_NORM_EPS)


def _unit(graph: Graph, x: str) -> str:
    square = graph.op("ReduceSum", graph.op("Mul", x, x), graph.constant(np.array([-1])), keepdims=1)
    return graph.op("Div", x, graph.op("Sqrt", graph.op("Add", square, graph.constant(1e-12))))


def _vae(graph: Graph, encoder: VariationalEncoder, params: Params, image: str, patch: int) -> str:
    """`models.vae.VariationalEncoder`, the mean alone; images are channels first, as ONNX has them."""
    rows, columns = encoder.grid
    x = _convolution(graph, image, params["stem"], "stem")
    for i in range(encoder.blocks):
        x = _residual_block(graph, x, params, f"pixel_block{i:02d}")
    x = graph.reshape(x, 0, encoder.width, rows, patch, columns, patch)
    x = graph.reshape(graph.transpose(x, 0, 2, 4, 3, 5, 1), 0, rows, columns, patch * patch * encoder.width)
    x = graph.transpose(graph.dense(x, params["to_tokens"], "to_tokens"), 0, 3, 1, 2)
    for i in range(encoder.blocks):
        x = _residual_block(graph, x, params, f"token_block{i:02d}")
    x = graph.transpose(_silu(graph, x), 0, 2, 3, 1)
    mean = {key: np.asarray(value)[..., : encoder.embed_dim] for key, value in params["moments"].items()}
    return graph.reshape(graph.dense(x, mean, "moments"), 0, rows * columns, encoder.embed_dim)


def _residual_block(graph: Graph, x: str, params: Params, name: str) -> str:
    own, h = params[name], x
    for i in (1, 2):
        h = _silu(graph, _group_norm(graph, h, own[f"norm{i}"], f"{name}.norm{i}"))
        h = _convolution(graph, h, own[f"conv{i}"], f"{name}.conv{i}")
    return graph.op("Add", x, h)


def _convolution(graph: Graph, x: str, params: Params, name: str) -> str:
    kernel_OxIxHxW = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)
    weights = graph.constant(kernel_OxIxHxW, f"{name}.kernel"), graph.constant(params["bias"], f"{name}.bias")
    return graph.op("Conv", x, *weights, kernel_shape=[3, 3], pads=[1] * 4)


def _group_norm(graph: Graph, x: str, params: Params, name: str) -> str:
    """By InstanceNormalization over the channels of a group side by side: opset 17 has no GroupNormalization."""
    features = len(params["scale"])
    groups = features // math.gcd(features, 8)
    flat, shape = graph.reshape(x, 0, groups, -1), graph.op("Shape", x)
    one, zero = graph.constant(np.ones(groups, np.float32)), graph.constant(np.zeros(groups, np.float32))
    normed = graph.op("InstanceNormalization", flat, one, zero, epsilon=GROUP_NORM_EPSILON)
    scale, bias = (
        graph.constant(np.asarray(params[key]).reshape(-1, 1, 1), f"{name}.{key}") for key in ("scale", "bias")
    )
    return graph.op("Add", graph.op("Mul", graph.op("Reshape", normed, shape), scale), bias)


def _silu(graph: Graph, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


BUILDERS: dict[type, Callable[..., str]] = {
    Encoder: _vit,
    VanillaViT: _vanilla_vit,
    Segmenter: _segmenter,
    VariationalEncoder: _vae,
}
