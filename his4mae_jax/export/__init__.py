"""A trained encoder for other software: ONNX, JAX's serialised StableHLO, and a bioimage.io model description.

`stage.export` writes the folder. `networks` builds the ONNX graph of each encoder with the operations of `graph`, and
`heads` that of the cluster centres; `portable` has the same functions in JAX.
"""
