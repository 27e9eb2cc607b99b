"""README.md of an export: what the files are, how to load them, and what their input must be."""

from his4mae_jax.export.package import Package
from his4mae_jax.export.portable import PLATFORMS


def text(package: Package, name: str) -> str:
    """The text, Markdown.

    Args:
      package: what is exported.
      name: of the model.
    """
    source, fov, grid, window = package.source, package.fov, package.grid, package.window
    kind = "encoder" if package.centres is None else "encoder, and cluster centres or classes on top of it"
    inverted = ", and then 1 minus that: these images are inverted" if window.invert else ""
    parts = [
        f"# {name}",
        f"An {kind}, trained by method `{source.method}` of his4mae_jax "
        f"({source.encoder} of step {source.step:,}, {package.parameters:,} parameters).",
        "## Input",
        f"Fields of view: {fov} x {fov} pixels of a slice of a volume in electron microscopy, any number of them. A "
        f"pixel is {package.voxel_size_nm:g} nm wide; images of another size must be resampled to it first. Grey "
        f"levels are mapped to [0, 1] by `clip((grey - {window.low:g}) / {window.high - window.low:g}, 0, 1)`"
        f"{inverted}. That window is of {source.window_of}; for a volume of another contrast take the percentiles "
        f"{' and '.join(f'{p:g}' for p in source.percentiles)} of its grey levels in its place. bioimage.io's tools "
        "apply the window themselves (`preprocessing` in bioimageio.yaml).",
        "## Files",
        _files(package),
        "## ONNX",
        _code(
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("encoder.onnx")',
            '(tokens,) = session.run(None, {"image": fields})  '
            f"# (N, 1, {fov}, {fov}) float32 to (N, {grid}, {grid}, {package.features})",
        ),
        "## JAX",
        _code(
            "import jax",
            'with open("encoder.jax", "rb") as file:',
            "    encoder = jax.export.deserialize(bytearray(file.read()))",
            f'tokens = encoder.call(fields)["tokens"]  # (N, {fov}, {fov}) float32, without the channel',
        ),
        f"It runs on {', '.join(PLATFORMS)}; parameters are in the file. `jax.jit(encoder.call)` compiles it "
        "once for each number of fields of view.",
    ]
    if package.centres is not None:
        parts += ["## Clusters", _clusters(package)]
    parts += [
        "## Validation",
        "`test_image.npy` holds a field of view of noise in the window's grey levels, and the other `test_*.npy` what "
        "his4mae_jax gives for it. Scores on a volume with ground truth: `his4mae evaluate`, Dice of each class. "
        "Features and clusters depend on the voxel size and on the contrast; validate on volumes of your own before "
        "you rely on them.",
    ]
    return "\n\n".join(parts) + "\n"


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _files(package: Package) -> str:
    rows = [
        ("encoder.onnx", "fields of view to `tokens`"),
        ("encoder.jax", "the same for JAX (`jax.export`, StableHLO)"),
        ("bioimageio.yaml", "description for bioimage.io; it names authors and licence: check them before you publish"),
        ("test_*.npy, sample_*.tif", "a test input and its outputs"),
        ("export.json", "the facts of this page, for programs"),
    ]
    if package.centres is not None:
        rows[2:2] = [
            ("segmenter.onnx", "fields of view to `scores`, `token_labels` and `labels`"),
            ("segmenter.jax", "the same for JAX"),
        ]
    return "\n".join(["| file | content |", "|---|---|", *(f"| `{file}` | {content} |" for file, content in rows)])


def _clusters(package: Package) -> str:
    fov, grid, count = package.fov, package.grid, len(package.linear.offset_C)
    names = ", ".join(f"{i}: {name}" for i, name in enumerate(package.names, 1))
    return (
        f"`scores` (N, {count}, {grid}, {grid}): for each token {package.score_text}; the smallest counts. "
        f"`token_labels` (N, {grid}, {grid}) is the label of each token, and `labels` (N, 1, {fov}, {fov}) that of "
        f"each pixel, by linear expansion. Labels count from 1, and 0 is not labelled ({names}). "
        "`his4mae segment` averages scores where fields of view overlap, over axes, symmetries and nearby tokens, "
        "as its settings have it: one field of view alone has rougher borders, most of all at its edge."
    )
