"""The sections of a report that come from its records, as HTML."""

import csv
import shlex
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from his4mae_jax.bucket.path import Place
from his4mae_jax.clustering.choice import STRONG, Choice
from his4mae_jax.data.entries import listed
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.evaluation.tables import MATCHINGS
from his4mae_jax.files import slugs
from his4mae_jax.naming import clusters_file
from his4mae_jax.progress import duration
from his4mae_jax.report.html.facts import Facts
from his4mae_jax.report.html.markup import note, section, table

CONVERGED = 0.05  # fall of the loss over half of the training, up to which it counts as converged
STAGES = ("train", "segment", "evaluate", "name", "probe")


def run(facts: Facts, image: VolumeLike | None, train: dict[str, Any]) -> str:
    """What was run: volumes, checkpoint, contrast window, stages with their devices and times, settings.

    Args:
      facts: of the run.
      image: what was segmented; None: nothing was.
      train: the last entry of the training log.
    """
    s, config = facts.segmentation, facts.config
    data = config["data"]
    trained = [str(v) for v in listed(data["train"])] if data["source"] != "phantom" else ["synthetic cells"]
    rows = [
        ("method", f"{config['method']}, seed {config['seed']}"),
        ("trained on", ", ".join(trained)),
        ("trained to", f"step {max(facts.step, int(train.get('step', 0))):,}"),
    ]
    if not facts.trained:
        rows = [("seed", str(config["seed"]))]
    if image is not None:
        window = s.get("what", {}).get("contrast", {})
        low, high = (f"{window[k]:.6g}" if k in window else "?" for k in ("low", "high"))
        rows += [
            ("segmented volume", s["volume"]),
            ("shape (z, y, x)", " x ".join(map(str, image.shape))),
            ("voxel size (z, y, x)", " x ".join(f"{size:g}" for size in image.voxel_size_nm) + " nm"),
            ("contrast window", f"{low} to {high}" + ", inverted" * bool(window.get("invert"))),
            ("labels", f"{facts.labels}, by {_encoder(s)}, job {s.get('job', 'unknown')}"),
        ]
    changed = table(("setting", "value", "default"), facts.differences) if facts.differences else "<p>None.</p>"
    body = table(("", ""), rows) + "<h3>Stages</h3>" + _stages(facts, train)
    body += f"<details><summary>Settings that differ from their defaults ({len(facts.differences)})</summary>{changed}"
    return section("run", "What was run", body + "</details>")


def _encoder(segmentation):
    if "encoder_file" in segmentation:
        return f"the frozen encoder {segmentation['encoder_file']}"
    return f"the checkpoint of step {segmentation['step']:,}"


def _stages(facts, train):
    seconds = {"train": train.get("seconds"), "segment": facts.segmentation.get("seconds")}
    rows, versions = [], {}
    for stage in STAGES:
        entry = facts.stages.get(stage, {})
        took = seconds.get(stage) or entry.get("seconds")
        if took is None:
            continue
        found = entry.get("versions") or {}
        versions.setdefault(", ".join(f"{name} {v}" for name, v in found.items()), []).append(stage)
        rows.append((stage, duration(took), entry.get("device", "not recorded"), entry.get("ended", "not recorded")))
    lines = [
        note(f"Versions ({', '.join(stages)}): {text}." if len(versions) > 1 else f"Versions: {text}.")
        for text, stages in versions.items()
        if text
    ]
    return table(("stage", "took", "on", "ended"), rows) + "".join(lines) if rows else note("Nothing was recorded yet.")


def training(curves: str | None, fall: float | None) -> str:
    """The training curves, and whether the training had converged.

    Args:
      curves: a data URI; None: nothing was logged.
      fall: of the reconstruction loss over the second half, see `late_fall`; None: unknown.
    """
    body = f'<img class="wide" alt="training curves" src="{curves}">' if curves else "<p>No training log.</p>"
    if fall is not None:
        what = f"fell by {100 * fall:.0f} %" if fall > 0 else "did not fall"
        body += note(
            f"The reconstruction loss {what} in the second half of the training. "
            + (
                "It had not converged: more steps (train.steps) would lower it further, and mostly raise Dice."
                if fall > CONVERGED
                else "It had converged: more steps would change little."
            )
        )
    return section("training", "Training", body)


def choice(found: Choice | None, labels: int) -> str:
    """How well each number of clusters is found again in other parts of the volume, as a curve.

    Args:
      found: of the fit of centres; None: it was not measured.
      labels: number of labels that are shown.
    """
    if found is None:
        text = (
            "Not measured: --config.segment.compare_clusters names the numbers of clusters to compare, and centres are "
            "fitted anew with the next segmentation."
        )
        return section("choice", "How many clusters", note(text))
    strength = dict(zip(found.clusters, found.weakest, strict=True))
    body = f"<p>Without labels: {escape(found.text())}.</p>"
    if strength.get(labels, 1) < STRONG:
        body += (
            f"<p>The weakest of the {labels} clusters shown has {strength[labels]:.2f}: it is found elsewhere only in "
            "part, and may be one of several ways to divide what is there.</p>"
        )
    panels = [
        ("prediction strength", (0, 1), [("weakest cluster", found.weakest), ("mean", found.mean)], STRONG),
        ("log-likelihood of other parts (nats a voxel)", None, [("", found.likelihood)], None),
    ]
    charts = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{_chart(found.clusters, span, lines, mark, labels)}</figure>"
        for title, span, lines, mark in panels
    )
    text = (
        "Prediction strength (Tibshirani and Walther 2005): centres are fitted in every other block of the volume; of "
        "the pairs of voxels that a cluster of the other blocks holds, the share that these centres put together. The "
        f"dotted line is at {STRONG}; the upright one at the number of labels shown. More clusters divide the volume "
        "further, in ways that its other parts may not repeat; small organelles often need them."
    )
    return section("choice", "How many clusters", body + f'<div class="maps">{charts}</div>' + note(text))


def _chart(x: Sequence[int], span: tuple[float, float] | None, lines, mark: float | None, chosen: int) -> str:
    """Lines over whole numbers as SVG: the first drawn full, others dashed; `mark` is a level, `chosen` a place."""
    low, high = span or (min(min(y) for _, y in lines), max(max(y) for _, y in lines))
    wide, tall, left, top = 320, 180, 44, 10

    def px(value):
        return left + (value - x[0]) / max(x[-1] - x[0], 1) * (wide - 10)

    def py(value):
        return top + (high - value) / max(high - low, 1e-9) * tall

    parts = [f'<path class="axis" d="M{left} {top}V{top + tall}H{left + wide}"/>']
    for value in (low, (low + high) / 2, high):
        parts.append(f'<text x="{left - 6}" y="{py(value) + 4:.0f}" text-anchor="end">{value:.4g}</text>')
    for value in x[:: max(1, len(x) // 12)]:
        parts.append(f'<text x="{px(value):.0f}" y="{top + tall + 16}" text-anchor="middle">{value}</text>')
    if mark is not None:
        parts.append(f'<path class="mark" d="M{left} {py(mark):.1f}H{left + wide}"/>')
    if x[0] <= chosen <= x[-1]:
        parts.append(f'<path class="mark" d="M{px(chosen):.1f} {top}V{top + tall}"/>')
    for number, (name, y) in enumerate(lines):
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, y, strict=True))
        dashes = ' stroke-dasharray="5 4"' * bool(number)
        parts.append(f'<polyline points="{points}"{dashes}/>')
        if name:
            key = ("- - " if number else "— ") + name
            parts.append(f'<text x="{left + 8}" y="{top + tall - 24 + 16 * number}">{escape(key)}</text>')
    size = f"0 0 {left + wide + 6} {top + tall + 22}"
    return f'<svg viewBox="{size}" class="chart" role="img">{"".join(parts)}</svg>'


def scores(facts: Facts) -> str:
    """Dice by class; with more clusters than classes, merged clusters come first."""
    if not facts.metrics:
        why = "there is no ground truth, or it was not compared yet (his4mae evaluate)"
        return section("scores", "Scores", f"<p>No scores of these labels: {escape(why)}.</p>")
    classes = list(facts.metrics["dsc"]["one_to_one"])
    order = list(reversed(MATCHINGS)) if facts.merged else list(MATCHINGS)
    blocks = {facts.metrics.get("method", "this run"): facts.metrics, **(facts.metrics.get("baselines") or {})}
    rows = [
        (name, MATCHINGS[way], block["clusters"], *(_number(block["dsc"][way].get(c)) for c in classes))
        for name, block in blocks.items()
        if block.get("dsc")
        for way in order
    ]
    body = table(("method", "matching", "clusters", *classes), rows)
    if facts.merged:
        body += note(
            "There are more clusters than classes. Many-to-one: each cluster counts for the class that it overlaps "
            "most, which uses the ground truth. One-to-one: a single cluster for each class, the others count for none."
        )
    matching = facts.metrics.get("matching") or {}
    if matching:
        found = [(name, *(matching[way].get(str(i)) or "no class" for way in order))
                 for i, name in facts.look.names.items()]  # fmt: skip
        rows = table(("cluster", *(MATCHINGS[way] for way in order)), found)
        body += f"<details><summary>What each cluster stands for</summary>{rows}</details>"
    return section("scores", "Scores", note("Dice similarity coefficient with the ground truth.") + body)


def _number(value):
    return f"{value:.3f}" if isinstance(value, (int, float)) and value == value else "–"


def instances(folder: Place) -> str:
    """Number and sizes of the instances in each table, by name."""
    rows = []
    for path in sorted([*folder.glob("instances_*.csv"), *folder.glob("organelles_*_instances.csv")]):
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                sizes = [
                    (float(row["voxels"]), float(row.get("volume_um3") or "nan")) for row in csv.DictReader(stream)
                ]
        except (OSError, ValueError, KeyError, TypeError):
            rows.append((path.name, "cannot be read", "", "", ""))
            continue
        voxels, um3 = ([each[i] for each in sizes] for i in (0, 1))
        texts = (
            (f"{statistics.median(voxels):,.0f}", f"{statistics.median(um3):.3g}", f"{max(um3):.3g}")
            if sizes
            else "–" * 3
        )
        rows.append((_instance_name(folder, path), f"{len(sizes):,}", *texts, path.name))
    head = ("name", "instances", "median voxels", "median µm³", "largest µm³", "table")
    text = "No tables of instances yet: --config.segment.instances names the organelles to take apart."
    return section("instances", "Instances", table(head, rows) if rows else f"<p>{escape(text)}</p>")


def _instance_name(folder, path):
    """The name in clusters.yaml that a table's file name stands for, or that part of the file name."""
    part = path.stem.removeprefix("instances_").removeprefix("organelles_").removesuffix("_instances")
    file = folder / clusters_file.FILE
    if path.stem.startswith("organelles_") and file.exists():
        names = {i: organelle.name for i, organelle in clusters_file.read(file).organelles().items()}
        return next((names[i] for i, own in slugs(names).items() if own == part), part)
    return part


def further(workdir: Place, folder: Place | None) -> str:
    """The commands that go on from here; `folder` has the labels, None: there are none yet."""
    folder_flag = f"--workdir={shlex.quote(str(workdir))}"
    saved = f"--config={shlex.quote(f'saved:{workdir}/config.json')}"
    steps = [("train on, where it stopped", f"his4mae train {saved} {folder_flag}")]
    if folder is not None:
        steps = [
            (f"edit the names in {folder}/clusters.yaml, then", f"his4mae name {folder_flag}"),
            ("learn classes from a few labels", f"his4mae probe {saved} {folder_flag} --labels=points.csv"),
            ("other numbers of clusters", f"his4mae segment {saved} {folder_flag} --config.segment.clusters=8"),
            ("score with ground truth, draw the figures", f"his4mae evaluate {saved} {folder_flag}"),
        ]
    else:
        steps.append(("label every voxel", f"his4mae segment {saved} {folder_flag}"))
    steps.append(("this page again", f"his4mae report {folder_flag}"))
    text = "\n".join(f"# {what}\n{command}" for what, command in steps)
    return section("further", "How to go on", f"<pre>{escape(text)}</pre>")
