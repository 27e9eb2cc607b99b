"""The rows of a comparison as runs: a folder and a whole config for each row and seed, checked before any starts."""

import ast
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from his4mae_jax import config as configs
from his4mae_jax.errors import UserError
from his4mae_jax.files import slug
from his4mae_jax.output.records import check_free
from his4mae_jax.settings import stages
from his4mae_jax.settings.table import affects_scores, fixed_by_training, unknown_key
from his4mae_jax.workdir import VOLUMES, volume_folder

COPIES = "checkpoints.partial"  # the folder of another run's checkpoints while they are copied
# Files that a run writes after row.json: a folder with one of these but without row.json is the user's own.
OURS = ("run.json", "log.txt", VOLUMES, "train.jsonl", "checkpoints", COPIES)
RESERVED = ("data", "figures")  # folders of the workdir that belong to no row


def run_folder(workdir: str | os.PathLike, name: str, seed: int) -> pathlib.Path:
    """The folder of the run of one row and seed."""
    return pathlib.Path(workdir) / slug(name) / f"seed{seed}"


def outputs_of(folder: pathlib.Path, settings: dict[str, Any]) -> pathlib.Path:
    """The folder in that of a run with the labels and scores of the volume that its settings name."""
    from his4mae_jax.data import entries  # with TensorStore and SciPy: 60 MB and half a second

    return volume_folder(folder, entries.target(ml_collections.ConfigDict(settings), folder).image)


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file, or None where it is missing or incomplete."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def scored(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a run's scores depend on, `{dotted key: value}`."""
    return {key: value for key, value in configs.flat_settings(settings).items() if affects_scores(key)}


def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a run's checkpoints depend on, `{dotted key: value}`: runs that agree in them share one."""
    flat = configs.flat_settings(settings)
    method = flat["method"]
    if method in configs.SUPERVISED:  # they learn one class for each name, unless their number is given
        flat["supervised.classes"] = flat["supervised.classes"] or len(flat["data.class_names"])
    return {key: value for key, value in flat.items() if fixed_by_training(key, method)}


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
      name: of the row.
      seed: of the weights, the batches and the cluster fit.
      folder: where the run writes.
      settings: its whole config, nested as in row.json.
    """

    name: str
    seed: int
    folder: pathlib.Path
    settings: dict[str, Any]

    @property
    def training(self) -> dict[str, Any]:
        """The settings that the checkpoints depend on, `{dotted key: value}`."""
        return trained(self.settings)

    @property
    def outputs(self) -> pathlib.Path:
        """Folder of its labels and scores."""
        return outputs_of(self.folder, self.settings)

    @property
    def done(self) -> bool:
        """Whether its folder holds the scores of exactly these settings."""
        saved = read_json(self.folder / "row.json")
        if not isinstance(saved, dict) or read_json(self.outputs / "metrics.json") is None:
            return False
        return scored(saved) == scored(self.settings)


def parse(text: str, default: Any) -> Any:
    """Parses the value of a "key=value": a Python literal, or else the text itself; lists become tuples.

    A setting whose default is a string stays a string: `data.test=4` is the name "4".
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if isinstance(default, str) and not isinstance(value, str):
        return text
    return tuple(value) if isinstance(value, list) else value


def override(config: ml_collections.ConfigDict, change: str, row: str) -> None:
    """Applies one "key=value" to `config`.

    Args:
      config: of the row, changed in place.
      change: the "key=value".
      row: name of the row, for errors.

    Raises:
      UserError: no "key=value", an unknown key, a key that a row cannot set, or a value of another type.
    """
    key, equals, text = (part.strip() for part in change.partition("="))
    if not equals:
        raise UserError(f"compare row {row!r}: {change!r} sets nothing; write it as 'key=value'")
    if key == "seed" or key.startswith("compare."):
        raise UserError(f"compare row {row!r}: {key} cannot be set by a row; compare.seeds holds the seeds of all rows")
    if key == "evaluate.baselines":
        raise UserError(f"compare row {row!r}: {key} cannot be set by a row; they are scored once, beside all rows")
    if key not in set(configs.flat_keys(config)):
        raise UserError(f"compare row {row!r}: {unknown_key(key)}")
    *sections, leaf = key.split(".")
    section = config
    for name in sections:
        section = section[name]
    try:
        section[leaf] = parse(text, section[leaf])
    except TypeError as error:
        raise UserError(f"compare row {row!r}: {key} cannot be {text} ({error})") from error


def named_rows(config: ml_collections.ConfigDict) -> list[tuple[str, tuple[str, ...]]]:
    """`compare.rows` as `(name, ("key=value", ...))` pairs.

    Raises:
      UserError: a setting of `compare.*` is out of its range, there are no rows,
        a name makes no folder, or two rows share one.
    """
    for setting in stages.SETTINGS:
        if setting.section == "compare":
            setting.check(config.compare[setting.name])
    rows, folders = [], dict.fromkeys(RESERVED, "the comparison itself")
    for row in config.compare.rows:
        name, changes = row[0], (row[1],) if isinstance(row[1], str) else tuple(row[1])
        if not slug(name):
            raise UserError(f"config key compare.rows: {name!r} has no letter or digit to name its folder by")
        if slug(name) in folders:
            raise UserError(
                f"config key compare.rows: {name!r} would share the folder {slug(name)} with {folders[slug(name)]}; "
                "give it another name"
            )
        folders[slug(name)] = repr(name)
        rows.append((name, changes))
    if not rows:
        raise UserError("config key compare.rows is empty: give the table's rows, as configs/compare/table3.py does")
    return rows


def plan(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> list[Run]:
    """Lists all runs, row by row and within a row seed by seed; writes nothing.

    Raises:
      UserError: a row or figure that cannot work, or a setting out of its range.
    """
    workdir, rows, seeds = pathlib.Path(workdir), named_rows(config), tuple(config.compare.seeds)
    runs, clustered = [], False
    for name, changes in rows:
        row = _row_config(config, name, changes, workdir, baselines=not clustered)
        clustered = clustered or row.method not in configs.SUPERVISED
        for seed in seeds:
            row.seed = seed
            settings = json.loads(json.dumps(row.to_dict()))
            runs.append(Run(name, seed, run_folder(workdir, name, seed), settings))
    _check_figures(config.compare.figures, [run.settings for run in runs])
    return runs


def _row_config(config, name, changes, workdir, baselines):
    """The config of one row, without its seed; with `baselines` it also scores them, if the row clusters."""
    row = config.copy_and_resolve_references()
    row.compare = configs.get_default().compare
    row.report.after_stages = False  # rows have tables
    for change in changes:
        override(row, change, name)
    supervised = row.method in configs.SUPERVISED
    if supervised or not baselines:
        row.evaluate.baselines = ()
    if row.data.source == "phantom":
        cells = row.data.phantom
        cells.seed = config.seed if cells.seed < 0 else cells.seed
        # Phantoms of different sizes or seeds, which rows may set, have folders of their own.
        shared = workdir.absolute() / "data" / f"phantom_{cells.size}_seed{cells.seed}"
        row.data.root = row.data.root or str(shared)
    try:
        configs.validate(row)
        if row.segment.encoder_file:  # before another row is trained
            # Imported here: JAX would be part of what a small run's process is measured at.
            from his4mae_jax.inference.encoders import description
            from his4mae_jax.inference.encoders.opening import check_settings

            check_settings(row.segment, description.read(row.segment.encoder_file))
    except UserError as error:
        raise UserError(f"compare row {name!r}: {error}") from error
    if row.segment.volume or (row.data.source == "files" and not row.data.test_labels):
        key = "segment.volume" if row.segment.volume else "data.test_labels"
        raise UserError(
            f"compare row {name!r}: no ground truth to score it against (config key {key}); give data.test its "
            "data.test_labels, and leave segment.volume empty"
        )
    known = row.data.train_labels if row.data.source == "files" else row.data.train
    tested = row.data.test_labels if row.data.source == "files" else row.data.test
    if supervised and tested and tested in ((known,) if isinstance(known, str) else known):
        raise UserError(
            f"compare row {name!r}: method {row.method} would learn from {tested}, by whose ground truth it is scored; "
            "train or test it on another volume, or leave the row out"
        )
    return row


def _check_figures(figures, settings):
    """Raises `UserError` if no row provides what a figure shows: before the first training, not after the last."""
    if "curves" in figures and not any(s["evaluate"]["curve_box"] for s in settings):
        raise UserError("config key compare.figures: 'curves' needs rows with evaluate.curve_box above 0")
    if "codebook" in figures and len({s["codebook"]["size"] for s in settings}) < 2:
        raise UserError("config key compare.figures: 'codebook' needs rows that differ in codebook.size")


def check_folders(runs: Sequence[Run]) -> None:
    """Raises `UserError` for the first folder that holds another training, or files that are not ours."""
    for run in runs:
        if run.folder.exists() and not run.folder.is_dir():
            raise UserError(f"{run.folder}: a file is in the way; move it, or use another workdir")
        path = next((p for p in (run.folder / f for f in ("row.json", "config.json")) if p.exists()), None)
        if path is None:
            check_free(run.folder, OURS)
            continue
        if "copies" not in (read_json(run.folder / "run.json") or {}):
            check_free(run.folder, [COPIES])
        saved = read_json(path)
        if not isinstance(saved, dict):
            raise UserError(f"{path}: cannot be read; delete {run.folder} to run that row and seed anew")
        saved, wanted = trained(saved), run.training
        changed = next((key for key in wanted if saved.get(key) != wanted[key]), None)
        if changed:
            raise UserError(
                f"{run.folder}: holds a run of another config ({changed} was {saved.get(changed)!r}, now "
                f"{wanted[changed]!r}); delete that folder to run it anew, rename the row, or use another workdir"
            )
