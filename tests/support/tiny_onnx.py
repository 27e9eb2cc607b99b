"""A small network like DINO's in an ONNX file: a patch convolution, a cls token before the patches, a linear layer."""

import pathlib

import numpy as np
import onnx
import yaml
from onnx import helper, numpy_helper

CHANNELS, PATCH, SIDE, DIM = 3, 4, 20, 6
BATCH, HEIGHT = "batch", "height"


def weights(channels=CHANNELS, dim=DIM):
    """Kernel `(D, C, P, P)`, bias and cls token `(1, 1, D)`."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(dim, channels, PATCH, PATCH)).astype(np.float32)
    return kernel, rng.normal(size=dim).astype(np.float32), rng.normal(size=(1, 1, dim)).astype(np.float32)


def tokens(images_BxCxHxW):
    """What the network gives for images, without the cls token: `(B, N, D)`."""
    kernel, bias, _ = weights(images_BxCxHxW.shape[1])
    B, C, H, W = images_BxCxHxW.shape
    patches = images_BxCxHxW.reshape(B, C, H // PATCH, PATCH, W // PATCH, PATCH).transpose(0, 2, 4, 1, 3, 5)
    flat = patches.reshape(B, -1, C * PATCH * PATCH)
    return np.tanh(flat @ kernel.reshape(len(kernel), -1).T + bias)


def write(folder, *, batch=BATCH, side=None, channels=CHANNELS, dim=DIM, cls=True, more=(), external=False, flat=False):
    """Writes encoder.onnx, and encoder.yaml that describes it, and returns the path of the YAML file.

    Args:
      folder: to write into.
      batch, side: number of images and their side in pixels; a text: any.
      channels, dim: of the network.
      cls: whether a cls token comes first.
      more: names of further outputs and inputs, which make the file one that is not wanted.
      external: whether the weights lie in a file beside it.
      flat: whether the output is one vector for an image.
    """
    kernel, bias, cls_token = weights(channels, dim)
    side = side or HEIGHT
    constants = {
        "kernel": kernel, "bias": bias, "cls_token": cls_token, "flat": np.array([0, dim, -1]),
        "one": np.array([1]), "rest": np.array([1, dim]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel", "bias"], ["map"], strides=[PATCH, PATCH]),
        helper.make_node("Tanh", ["map"], ["active"]),
        helper.make_node("Reshape", ["active", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["pixels"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count", "rest"], ["many"], axis=0),
        helper.make_node("Expand", ["cls_token", "many"], ["first"]),
        helper.make_node("Concat", ["first", "patches"] if cls else ["patches"], ["tokens"], axis=1),
        helper.make_node("ReduceMean", ["patches"], ["pooled"], axes=[1], keepdims=0),
    ]
    if not cls:
        nodes.pop(6)
    value = helper.make_tensor_value_info
    images = value("pixels", onnx.TensorProto.FLOAT, [batch, channels, side, side])
    inputs = [images, *(value(n, onnx.TensorProto.FLOAT, [1]) for n in more if n == "mask")]
    outputs = ["pooled"] if flat else ["tokens", *(name for name in more if name == "pooled")]
    graph = helper.make_graph(
        nodes, "tiny", inputs, [value(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = pathlib.Path(folder) / "encoder.onnx"
    beside = dict(save_as_external_data=True, location="encoder.weights", size_threshold=500) if external else {}
    onnx.save(model, path, **beside)
    return describe(folder, prefix_tokens=int(cls))


def describe(folder, remove=(), name="encoder.yaml", **changes):
    """Writes the YAML file with some keys changed, and returns its path."""
    content = {
        "file": "encoder.onnx", "size": SIDE, "patch": PATCH, "channels": CHANNELS, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "prefix_tokens": 1, **changes,
    }  # fmt: skip
    path = pathlib.Path(folder) / name
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if k not in remove}), encoding="utf-8")
    return path
