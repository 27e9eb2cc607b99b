"""A small builder of ONNX graphs: operations by name, constants, and a batch dimension of any size."""

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from his4mae_jax.errors import UserError

OPSET = 17  # LayerNormalization came with it; read by onnxruntime from 1.12 (2022) on
IR_VERSION = 8
BATCH = "N"


def onnx_module() -> ModuleType:
    """The package `onnx`.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise UserError(f"writing ONNX needs the package onnx ({error}): pip install his4mae_jax[export]") from error


class Graph:
    """An ONNX graph under construction. Values are named by strings, as ONNX has them."""

    def __init__(self):
        self._onnx = onnx_module()
        self._nodes, self._constants, self._count = [], {}, 0

    def op(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """Adds a node.

        Args:
          kind: of operation, such as "MatMul".
          inputs: names of values.
          outputs: their number, or names for them.
          attributes: of the node.

        Returns:
          The name of its output; a tuple of names where there are several.
        """
        if isinstance(outputs, int):
            self._count += 1
            outputs = [f"{kind}_{self._count}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, name=f"node_{outputs[0]}", **attributes))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def constant(self, value: Any, name: str | None = None) -> str:
        """Adds a constant array, and returns its name; Python's integers become int64, its floats float32."""
        array = np.asarray(value)
        array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
        if name is None:
            name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{len(self._constants)}"
        self._constants[name] = array
        return name

    # Operations that networks have in common.

    def dense(self, x: str, params: Mapping[str, Any], name: str) -> str:
        """`x @ kernel + bias` over the last axis."""
        y = self.op("MatMul", x, self.constant(params["kernel"], f"{name}.kernel"))
        return self.op("Add", y, self.constant(params["bias"], f"{name}.bias")) if "bias" in params else y

    def reshape(self, x: str, *shape: int) -> str:
        """Reshapes; 0 keeps the size of that axis, -1 is what remains."""
        return self.op("Reshape", x, self.constant(np.array(shape)))

    def transpose(self, x: str, *axes: int) -> str:
        """Permutes the axes."""
        return self.op("Transpose", x, perm=list(axes))

    def repeat(self, value_1xTxD: np.ndarray, like: str, name: str) -> str:
        """The constant `(1, T, D)` once for each element of the batch of `like`."""
        shape = self.op("Concat", self.op("Shape", like, start=0, end=1), self.constant(value_1xTxD.shape[1:]), axis=0)
        return self.op("Expand", self.constant(value_1xTxD, name), shape)

    def model(self, inputs: Mapping[str, Sequence], outputs: Mapping[str, Sequence], doc: str) -> Any:
        """The finished model, after ONNX's own check.

        Args:
          inputs: `{name: (dtype, *shape without the batch)}`.
          outputs: as inputs.
          doc: what the model is.

        Returns:
          `onnx.ModelProto`.
        """
        onnx = self._onnx

        def values(described):
            return [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [BATCH, *shape]
                )
                for name, (dtype, *shape) in described.items()
            ]

        constants = [onnx.numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = onnx.helper.make_graph(
            self._nodes, "his4mae", values(inputs), values(outputs), constants, doc_string=doc
        )  # fmt: skip
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="his4mae_jax", doc_string=doc,
        )  # fmt: skip
        onnx.checker.check_model(model, full_check=True)
        return model
