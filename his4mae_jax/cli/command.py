"""The `his4mae` command: one subcommand for each mode of a run, and for settings and configs."""

import argparse
import dataclasses
import difflib
import math
import sys
from collections.abc import Sequence

import his4mae_jax
from his4mae_jax.cli import config_file, process
from his4mae_jax.cli.arguments import Parser, add_run_arguments, run_command
from his4mae_jax.cli.stages import MODES, SAVED
from his4mae_jax.errors import UserError
from his4mae_jax.settings import describe


@dataclasses.dataclass(frozen=True)
class Subcommand:
    """Help of a subcommand.

    Attributes:
      summary: one line, for the list of all.
      details: what its own help says, in full sentences.
      examples: commands that run as they are.
    """

    summary: str
    details: str
    examples: tuple[str, ...]


SUBCOMMANDS = {
    "init": Subcommand(
        "write a config for volumes of your own",
        "Looks at the volumes (voxel size, grey levels, anisotropy, ground truth beside them) and writes a commented "
        "config with a small model, whose run ends in minutes on a CPU. The first volume is also segmented. A volume "
        "is a TIFF, a folder of slices, OME-Zarr, N5, precomputed, HDF5 or MRC, also at s3://, gs:// or https://.",
        ("his4mae init cell_1.tif", "his4mae init cell_1.tif cell_2.tif --voxel-size=8,4,4 --output=mycell.py"),
    ),
    "inspect": Subcommand(
        "describe the volumes of a config and estimate time, memory and disk of a run",
        "Opens every volume that the config names, prints its shape, voxel size and grey levels, measures a few steps "
        "and estimates what training and segmentation take. Pictures go to WORKDIR/inspect/.",
        ("his4mae inspect --config=demo --workdir=runs/demo",),
    ),
    "fetch": Subcommand(
        "download the public data sets that a config names",
        "Downloads to data.root and converts what is downloaded to OME-Zarr. A download that was interrupted goes on "
        "when the same command is given again.",
        ("his4mae fetch --config=betaseg", "his4mae fetch --config=epfl_hippocampus --config.data.root=/data/em"),
    ),
    "train": Subcommand(
        "train, or go on from the last checkpoint",
        "Trains the encoder on the volumes of data.train, without labels. A run that was interrupted goes on from its "
        "last checkpoint when the same command is given again.",
        ("his4mae train --config=demo --workdir=runs/demo --config.train.steps=1000",),
    ),
    "segment": Subcommand(
        "cluster the features of a volume and label every voxel",
        "Needs a trained workdir, or a frozen encoder (segment.encoder_file). Fits the cluster centres on a sample of "
        "the voxels of data.test (or of segment.volume), and writes "
        "WORKDIR/volumes/NAME/labels.ome.zarr.",
        (
            "his4mae segment --config=demo --workdir=runs/demo --config.segment.clusters=8",
            "his4mae segment --config=demo --workdir=runs/demo --config.segment.volume=cell_4.tif",
        ),
    ),
    "evaluate": Subcommand(
        "score the labels against ground truth and draw the figures",
        "Needs a segmented workdir. Writes figures/ beside the labels and, where there is ground truth "
        "(data.test_labels), metrics.json and metrics.csv.",
        ("his4mae evaluate --config=demo --workdir=runs/demo",),
    ),
    "name": Subcommand(
        "write the labels by name, as clusters.yaml beside them names the clusters",
        "Needs a segmented workdir and no model. Edit the names in clusters.yaml first: clusters with one name are "
        "merged, and 'ignore' means no label. Writes organelles.ome.zarr, and on request masks, instances and further "
        "formats by name. Without --config the settings are those of the training.",
        (
            "his4mae name --workdir=runs/demo",
            "his4mae name --workdir=runs/demo --from-truth",
            "his4mae name --workdir=runs/demo --config.name.masks=True",
        ),
    ),
    "all": Subcommand(
        "train, segment and evaluate in one go",
        "Runs the three stages one after the other; stages that are done already are not repeated. Without ground "
        "truth the figures show the clusters and nothing is scored.",
        ("his4mae all --config=demo --workdir=runs/demo",),
    ),
    "export": Subcommand(
        "write the trained encoder for other software: ONNX, JAX, bioimage.io",
        "Needs a trained workdir. Writes WORKDIR/export/: the encoder, and where the workdir has centres the score "
        "maps and labels that they give, as ONNX and as StableHLO for JAX, with a bioimage.io description. Without "
        "--config the settings are those of the training. Needs `pip install his4mae_jax[export]`.",
        (
            "his4mae export --workdir=runs/demo",
            "his4mae export --workdir=runs/demo --config.segment.clusters=6 --config.export.license=CC-BY-4.0",
        ),
    ),
    "probe": Subcommand(
        "learn classes from a few labelled voxels",
        "Needs a trained workdir. Fits a classifier on the features of the voxels in --labels, prints its "
        "cross-validated Dice, and writes WORKDIR/probe.npz and WORKDIR/suggest.csv, the places to label next. With "
        "--segment the volume is labelled with the classes; without, `his4mae segment` with "
        "--config.segment.centres=probe does so later.",
        (
            "his4mae probe --config=demo --workdir=runs/demo --labels=points.csv --segment",
            "his4mae probe --config=demo --workdir=runs/demo --labels=sparse.ome.zarr --hidden=64",
        ),
    ),
    "report": Subcommand(
        "write the page of a run: slices, clusters, scores, curves",
        "Needs a trained workdir. Writes WORKDIR/report/index.html, one file that works offline; every stage writes it "
        "too, but for the features by UMAP. Without --config the settings are those of the training.",
        ("his4mae report --workdir=runs/demo",),
    ),
    "view": Subcommand(
        "show the volume with its labels, names, instances and probabilities in neuroglancer or napari",
        "Needs a segmented workdir and no model. Serves what the workdir holds to neuroglancer, prints the link, and "
        "ends with Ctrl-C; --napari opens a window of napari in its place. Without --config the settings are those of "
        "the training. Needs `pip install his4mae_jax[view]`, or his4mae_jax[napari].",
        (
            "his4mae view --workdir=runs/demo",
            "his4mae view --workdir=runs/demo --port=8080",
            "his4mae view --workdir=runs/demo --napari",
        ),
    ),
    "compare": Subcommand(
        "train and score every row of a comparison, several seeds each",
        "Runs the rows of compare.rows and writes their table as Markdown, CSV, JSON and LaTeX.",
        ("his4mae compare --config=compare/table3 --workdir=runs/table3",),
    ),
    "check": Subcommand(
        "look for damage in a workdir: settings, checkpoints, labels",
        "Reads all that a run wrote, compares labels and probabilities with the checksums that were taken when they "
        "were written, and lists what is damaged, with what to do. Changes nothing; exits with status 2 where there "
        "is damage.",
        ("his4mae check --workdir=runs/demo",),
    ),
    "settings": Subcommand(
        "list settings with their defaults and meaning",
        "Lists all settings, or those whose name or meaning has a word in it.",
        ("his4mae settings", "his4mae settings lr", "his4mae settings segment."),
    ),
}


def make_parser() -> Parser:
    """The parser of the whole command line, but for overrides of settings."""
    parser = Parser(
        prog="his4mae",
        usage="his4mae COMMAND [--config=CONFIG] [--workdir=FOLDER] [--config.KEY=VALUE ...]",
        description=his4mae_jax.__doc__.partition("\n")[0],
        epilog=_examples(
            "his4mae all --config=demo --workdir=runs/demo",
            "his4mae init cell.tif",
            "his4mae segment --help",
        )
        + f"\n\nshipped configs: {', '.join(config_file.shipped())}",
    )
    parser.add_argument("--version", action="version", version=f"his4mae {his4mae_jax.__version__}")
    added = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True, prog="his4mae")
    for name, text in SUBCOMMANDS.items():
        own = added.add_parser(
            name, help=text.summary, description=text.details, epilog=_examples(*text.examples), usage=_usage(name)
        )
        if name in MODES:
            add_run_arguments(own, workdir=name != "fetch")
    added.choices["name"].add_argument(
        "--from-truth",
        action="store_true",
        help="name each cluster after the class that it overlaps most in ground truth; needs `his4mae evaluate` "
        "(short for --config.name.from_truth=many_to_one)",
    )
    probe = added.choices["probe"]
    probe.add_argument("--labels", metavar="FILE", help="points as CSV (z, y, x, class), or a volume of sparse labels")
    probe.add_argument("--hidden", metavar="UNITS", help="units of a hidden layer (default: a linear classifier)")
    probe.add_argument(
        "--segment", action="store_true", help="label the volume with the classes at once (config.probe.segment)"
    )
    probe.add_argument("--names", metavar="A,B,...", help="names of the ids 1, 2, ... of such a volume")
    view = added.choices["view"]
    view.add_argument("--napari", action="store_true", help="open napari (short for --config.view.viewer=napari)")
    view.add_argument("--port", metavar="PORT", help="of neuroglancer (default: one that is free)")
    view.add_argument("--address", metavar="ADDRESS", help="to serve at (default: 127.0.0.1, this machine alone)")
    added.choices["check"].add_argument("--workdir", metavar="FOLDER", required=True, help="folder of the run")
    init = added.choices["init"]
    init.add_argument("volumes", nargs="+", metavar="VOLUME", help="path or URL, with a box as in cell.tif[0:99, :, :]")
    init.add_argument("--output", metavar="FILE.py", help="the config (default: named after the first volume)")
    init.add_argument("--voxel-size", metavar="Z,Y,X", help="in nm (default: from the metadata of the volumes)")
    added.choices["settings"].add_argument("word", nargs="?", metavar="WORD", help="part of a name or of a meaning")
    return parser


def _usage(name):
    workdir = "" if name == "fetch" else " --workdir=FOLDER"
    config = " [--config=CONFIG]" if name in SAVED else " --config=CONFIG"
    return f"his4mae {name}{config}{workdir} [--config.KEY=VALUE ...]" if name in MODES else None


def _examples(*commands):
    return "\n".join([f"example{'s' if len(commands) > 1 else ''}:", *(f"  {command}" for command in commands)])


def parse(argv: Sequence[str]) -> process.Command:
    """Read a command line.

    Args:
      argv: its words, without the program.

    Raises:
      UserError: it is not one, or its config cannot be loaded.
    """
    words, overrides = config_file.split_overrides(argv)
    if words and not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        nearest = difflib.get_close_matches(words[0], SUBCOMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(SUBCOMMANDS)}"
        raise UserError(f"his4mae has no command {words[0]!r}; {hint}")
    parser = make_parser()
    if not words:
        words = ["--help"]
    arguments = parser.parse_args(words)
    return _command(arguments, overrides)


def _command(arguments: argparse.Namespace, overrides: Sequence[str]) -> process.Command:
    if arguments.command == "name" and arguments.from_truth:
        overrides = [*overrides, "--config.name.from_truth=many_to_one"]
    if arguments.command == "probe":
        overrides = [*overrides, *_probe_overrides(arguments)]
    if arguments.command == "view":
        flags = {"viewer": arguments.napari and "napari", "port": arguments.port, "address": arguments.address}
        overrides = [*overrides, *(f"--config.view.{key}={value}" for key, value in flags.items() if value)]
    if arguments.command in MODES:
        return run_command(
            arguments.command, arguments.config, arguments.workdir, overrides, f"his4mae {arguments.command} --help"
        )
    if overrides:
        raise UserError(f"his4mae {arguments.command} takes no settings ({overrides[0]})")
    if arguments.command == "init":
        from his4mae_jax.cli import new_config

        voxel_size_nm = arguments.voxel_size and _voxel_size(arguments.voxel_size)
        output = arguments.output
        return process.Command(lambda: new_config.init(arguments.volumes, output, voxel_size_nm), output or ".")
    if arguments.command == "check":
        return process.Command(lambda: _check(arguments.workdir), arguments.workdir)
    return process.Command(lambda: print(describe(arguments.word)), "the terminal")


def _check(workdir: str) -> None:
    from his4mae_jax.evaluation.check import check  # late, as it imports JAX

    process.quiet_orbax()
    check(workdir, process.log)


def _probe_overrides(arguments: argparse.Namespace) -> list[str]:
    """The flags of `probe` as settings."""
    names = arguments.names and repr(tuple(name.strip() for name in arguments.names.split(",")))
    flags = {"labels": arguments.labels, "hidden": arguments.hidden, "names": names, "segment": arguments.segment}
    return [f"--config.probe.{key}={value}" for key, value in flags.items() if value]


def _voxel_size(text: str) -> tuple[float, float, float]:
    """Read "8,4,4", or "8" for all three axes; `UserError` for anything else."""
    try:
        sizes = [float(part) for part in text.strip("()").split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 3) or not all(0 < size < math.inf for size in sizes):
        raise UserError(f"--voxel-size={text}: give one size or three (z, y, x) in nm, as in --voxel-size=8,4,4")
    return tuple(sizes * (3 // len(sizes)))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console command and of `python -m his4mae_jax`."""
    words = sys.argv[1:] if argv is None else argv
    process.execute(lambda: parse(words))
