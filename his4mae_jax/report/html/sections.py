"""The sections of a report as HTML. Every text that is not ours goes through `html.escape`."""

import csv
import pathlib
import shlex
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.output import records
from his4mae_jax.progress import duration
from his4mae_jax.report.html import slices as pictures
from his4mae_jax.report.html.facts import Facts
from his4mae_jax.report.html.slices import Slice

BINS = 32  # of a grey histogram


def section(anchor: str, title: str, body: str) -> str:
    """One section; body is HTML."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>'


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts, which are escaped."""
    lines = ["<tr>" + "".join(f"<th>{escape(str(cell))}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def run(facts: Facts, image: VolumeLike, train: dict[str, Any]) -> str:
    """What was run: volume, checkpoint, contrast window, times, versions, settings."""
    s = facts.segmentation
    window = s.get("what", {}).get("contrast", {})
    rows = [
        ("volume", s["volume"]),
        ("shape (z, y, x)", " x ".join(map(str, image.shape))),
        ("voxel size (z, y, x)", " x ".join(f"{size:g}" for size in image.voxel_size_nm) + " nm"),
        ("contrast window", f"{window.get('low')} to {window.get('high')}" + ", inverted" * bool(window.get("invert"))),
        ("checkpoint of the labels", f"step {s['step']:,}"),
        ("labels", f"{facts.labels}, job {s.get('job', 'unknown')}"),
        ("training", duration(train["seconds"]) if "seconds" in train else "not recorded"),
        ("segmentation", duration(s["seconds"])),
        ("versions at the time of the report", ", ".join(f"{name} {v}" for name, v in facts.versions.items())),
    ]
    changed = table(("setting", "value", "default"), facts.differences) if facts.differences else "<p>None.</p>"
    return section("run", "What was run", table(("", ""), rows) + "<h3>Settings that differ</h3>" + changed)


def training(curves: str | None) -> str:
    """The training curves, a data URI; None: nothing was logged."""
    body = f'<img class="wide" alt="training curves" src="{curves}">' if curves else "<p>No training log.</p>"
    return section("training", "Training", body)


def viewer(facts: Facts) -> str:
    """The slice viewer's controls and legend; the template's script fills in the slices."""
    legend = "".join(
        f'<li><span class="chip" style="background:{escape(facts.colours[i])}"></span>{escape(facts.names[i])}</li>'
        for i in facts.names
    )
    body = (
        '<p><label>axis <select id="axis"><option value="0">z</option><option value="1">y</option>'
        '<option value="2">x</option></select></label> <label>slice <input id="slice" type="range" min="0" value="0">'
        '</label> <output id="place"></output> <label>labels <input id="opacity" type="range" min="0" max="100" '
        'value="45"></label></p><div id="stage"><img id="grey" alt="image"><img id="labels" alt="labels"></div>'
        f'<ul class="legend">{legend}</ul>'
    )
    return section("slices", "Slices", body)


def gallery(facts: Facts, folder: pathlib.Path, slices: list[Slice]) -> str:
    """Crops, grey histogram, fraction and nearest other cluster of each label."""
    nearest = _nearest(folder, facts)
    labelled = sum(np.count_nonzero(each.labels) for each in slices) or 1
    cards = []
    for label, name in facts.names.items():
        grey = np.concatenate([each.grey[each.labels == label] for each in slices])
        crops = "".join(f'<img alt="" src="{pictures.grey_uri(c)}">' for c in pictures.crops(slices, label))
        near = f", nearest: {escape(nearest[label])}" if label in nearest else ""
        cards.append(
            f'<div class="card" style="border-color:{escape(facts.colours[label])}"><h3>{label}: {escape(name)}</h3>'
            f"<p>{100 * grey.size / labelled:.1f} % of the labelled pixels{near}</p>"
            f"{_histogram(grey, facts.colours[label])}<div>{crops or 'In no slice shown.'}</div></div>"
        )
    note = "<p>Around the deepest pixels of each cluster in the z slices above; grey values from 0 to 1.</p>"
    return section("clusters", "Clusters", note + f'<div class="cards">{"".join(cards)}</div>')


def _nearest(folder, facts):
    fitted = centre_files.load(folder / records.CENTRES)[0].get(facts.labels)
    if not isinstance(fitted, centre_files.Centres) or fitted.group_C is not None or facts.labels < 2:
        return {}
    distances = np.linalg.norm(fitted.centres_CxM[:, None] - fitted.centres_CxM[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return {i: facts.names[int(row.argmin()) + 1] for i, row in enumerate(distances, 1)}


def _histogram(grey, colour):
    counts = np.histogram(grey, BINS, (0, 1))[0]
    heights = 40 * counts / max(1, counts.max())
    bars = "".join(f'<rect x="{6 * i}" y="{40 - h:.1f}" width="5" height="{h:.1f}"/>' for i, h in enumerate(heights))
    return f'<svg viewBox="0 0 {6 * BINS} 40" class="histogram" fill="{escape(colour)}">{bars}</svg>'


def scores(facts: Facts) -> str:
    """Dice by class; with more clusters than classes, merged clusters come first."""
    if not facts.metrics:
        return section("scores", "Scores", "<p>No scores of these labels: there is no ground truth, or not yet.</p>")
    dsc = facts.metrics["dsc"]
    classes = list(dsc["one_to_one"])
    ways = [("one to one", "one_to_one"), ("merged (many to one)", "many_to_one")]
    if facts.labels > len([name for name in classes if name != "mean"]):
        ways.reverse()
    rows = [(title, *(_number(dsc[key].get(name)) for name in classes)) for title, key in ways]
    return section("scores", "Scores", "<p>Dice similarity coefficient.</p>" + table(("matching", *classes), rows))


def _number(value):
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"


def instances(folder: pathlib.Path) -> str:
    """Number and median size of the instances in each table."""
    rows = []
    for path in sorted(folder.glob("instances_*.csv")):
        with open(path, newline="", encoding="utf-8") as stream:
            sizes = [float(row["voxels"]) for row in csv.DictReader(stream) if row.get("voxels")]
        median = f"{statistics.median(sizes):,.0f}" if sizes else "–"
        rows.append((path.name, f"{len(sizes):,}", median))
    body = table(("table", "instances", "median voxels"), rows) if rows else "<p>No tables of instances yet.</p>"
    return section("instances", "Instances", body)


def further(folder: pathlib.Path) -> str:
    """The commands that go on from here."""
    workdir = f"--workdir={shlex.quote(str(folder))}"
    saved = f"--config={shlex.quote(f'saved:{folder}/config.json')}"
    lines = (
        f"# edit the names in {folder}/clusters.yaml, then\nhis4mae name {workdir}\n"
        f"# learn classes from a few labels\nhis4mae probe {saved} {workdir} --labels=points.csv\n"
        f"# other numbers of clusters\nhis4mae segment {saved} {workdir} --config.segment.clusters=8\n"
        f"# this page again\nhis4mae report {workdir}"
    )
    return section("further", "How to go on", f"<pre>{escape(lines)}</pre>")
