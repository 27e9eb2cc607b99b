"""The tables of `--mode=compare`: the paper's Table 3 over several seeds, and scores by number of clusters.

All values are read from the runs' folders, `workdir/<row>/seed<k>/`: row.json (the settings),
metrics.json, segment.json and run.json. table.json and table.csv hold the values in full precision,
table.md and table.tex are for readers.
"""

import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections

from his4mae_jax import config as configs
from his4mae_jax.compare.rows import outputs_of, read_json, run_folder
from his4mae_jax.compare.text import comma_separated, latex, markdown, notes
from his4mae_jax.files import slug, write_text
from his4mae_jax.settings.derived import encoder_name

BASELINES = {"intensity": "Intensity, k-means", "filters": "Filter features, k-means"}
MATCHINGS = ("one_to_one", "many_to_one")
FILES = ("table.json", "table.csv", "table.md", "table.tex")


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Statistics of one number over seeds; NaN and None are missing values.

    Returns:
      `{"mean", "std", "values"}`: "std" is the sample standard deviation (n - 1), None for fewer
      than two values; "mean" is None without any.
    """
    values = [None if v is None or not math.isfinite(v) else float(v) for v in values]
    present = [v for v in values if v is not None]
    return {
        "mean": statistics.fmean(present) if present else None,
        "std": statistics.stdev(present) if len(present) > 1 else None,
        "values": values,
    }


def collect(
    workdir: str | os.PathLike, rows: Iterable[tuple[str, Sequence[str]]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """One dict for each row of the table: methods without labels, classical baselines, supervised methods.

    Args:
      workdir: of the comparison.
      rows: `(name, (change, ...))` pairs, see `rows.named_rows`.
      seeds: `config.compare.seeds`.

    Returns:
      Dicts of "name", "method", "supervised", "baseline", "seeds" (those that are scored), "planned" (how
      many seeds there are in all), "clusters" (C, or the number of classes), "steps", "epochs", "fovs" (fields
      of view encoded), "same_training_as" (the row whose checkpoints it has, or None), "devices";
      "dsc", `{class: spread}` one to one, with "mean" among the classes; "by_clusters",
      `{"one_to_one": {C: spread}, "many_to_one": {C: spread}}` of the mean DSC; and the spreads
      "train_seconds", "segment_seconds" and "peak_rss_mb". Values that are not known yet are None;
      those of a spread are in the order of "seeds".
    """
    ours, baselines = [], {}
    names = {slug(name): name for name, _ in rows}
    for name, changes in rows:
        runs = [_read_run(run_folder(workdir, name, seed), seed) for seed in seeds]
        settings = dict(map(str.strip, change.partition("=")[::2]) for change in changes)
        ours.append(_row(name, settings.get("method"), runs, names))
        for run in runs:
            for kind, block in ((run["metrics"] or {}).get("baselines") or {}).items():
                baselines.setdefault(kind, {}).setdefault(run["seed"], block)
    nothing = {"settings": None, "segment": None, "run": None}
    classical = []
    for kind, blocks in baselines.items():
        runs = [{**nothing, "seed": seed, "metrics": blocks.get(seed)} for seed in seeds]
        classical.append({**_row(BASELINES.get(kind, kind), kind, runs, names), "baseline": True})
    supervised = [row for row in ours if row["supervised"]]
    return [*(row for row in ours if not row["supervised"]), *classical, *supervised]


def _read_run(folder, seed):
    settings = read_json(folder / "row.json")
    outputs = outputs_of(folder, settings) if settings else folder
    return {
        "seed": seed, "settings": settings, "run": read_json(folder / "run.json"),
        "metrics": read_json(outputs / "metrics.json"), "segment": read_json(outputs / "segment.json"),
    }  # fmt: skip


def _row(name, method, runs, names):
    """A row's dict; `method` is its own override, used before its first run; `names` maps slugs to names."""
    settings = next((run["settings"] for run in runs if run["settings"]), None)
    config = ml_collections.ConfigDict(settings) if settings else None
    method = encoder_name(config) if config else method
    steps = configs.total_steps(config) if config and not config.segment.get("encoder_file") else None
    scored = [run for run in runs if run["metrics"]]
    metrics = [run["metrics"] for run in scored]
    facts = [run["run"] or {} for run in scored]
    shared = next((fact["trained_in"] for fact in facts if fact.get("trained_in")), None)
    classes = dict.fromkeys(name for m in metrics for name in m["dsc"]["one_to_one"])
    return {
        "name": name,
        "method": method,
        "supervised": method in configs.SUPERVISED,
        "baseline": False,
        "seeds": [run["seed"] for run in scored],
        "planned": len(runs),
        "clusters": metrics[0]["clusters"] if metrics else None,
        "steps": steps,
        "epochs": steps * config.train.batch_size / config.train.samples_per_epoch if steps else None,
        "fovs": next((run["segment"]["fovs"] for run in scored if run["segment"]), None),
        "same_training_as": names.get(shared, shared),
        "devices": sorted({f"{fact['device']} with {fact['cpus']} CPUs" for fact in facts if "device" in fact}),
        "dsc": {c: spread([m["dsc"]["one_to_one"].get(c) for m in metrics]) for c in classes},
        "by_clusters": {matching: _by_clusters(metrics, matching) for matching in MATCHINGS},
        "train_seconds": spread([m["seconds"].get("train") for m in metrics]),
        "segment_seconds": spread([m["seconds"].get("segment") for m in metrics]),
        "peak_rss_mb": spread([fact.get("peak_rss_mb") for fact in facts]),
    }


def _by_clusters(metrics, matching):
    """`{C: spread of the mean DSC}` by one way of matching, C ascending."""
    sizes = sorted({int(size) for m in metrics for size in m["by_clusters"]})
    means = {c: [m["by_clusters"].get(str(c), {}).get(matching, {}).get("mean") for m in metrics] for c in sizes}
    return {size: spread(values) for size, values in means.items()}


def write(workdir: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> str:
    """Writes table.json, .csv, .md and .tex of `collect`'s rows; returns the Markdown."""
    text = markdown(rows)
    content = json.dumps({"rows": rows, "notes": notes(rows)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for file, written in zip(FILES, (content, comma_separated(rows), text, latex(rows)), strict=True):
        write_text(pathlib.Path(workdir) / file, written)
    return text
