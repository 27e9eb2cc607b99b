"""A comparison's tables as text: Markdown, LaTeX and comma-separated values, from `tables.collect`'s rows.

One-to-one and many-to-one matching have tables and columns of their own: they measure different
things (`evaluation.dice`).

LaTeX is laid out here and not by tabulate: its booktabs format escapes the cells itself, and so
bold cells too, and its raw format has no booktabs rules.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import tabulate

from his4mae_jax.files import csv_cell

Rows = Sequence[dict[str, Any]]  # of `tables.collect`

MISSING = "–"
CAPTIONS = {
    "one_to_one": "Mean DSC by number of clusters C, one cluster to one class",
    "many_to_one": "Mean DSC by number of clusters C, many clusters to one class (which clusters are merged is decided "
    "by the labels)",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      caption: above it.
      header: of the columns.
      rows: of the length of `header`.
      bold: cells as (row, column).
      supervised: index of the first supervised row, or None.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    bold: frozenset = frozenset()
    supervised: int | None = None


def best(rows: Rows) -> set[int]:
    """Indices of the rows with the best mean DSC without labels, among rows with all their seeds."""
    competing = [i for i, row in enumerate(rows) if not row["supervised"] and len(row["seeds"]) == row["planned"] > 0]
    means = {i: rows[i]["dsc"]["mean"]["mean"] for i in competing}
    means = {i: mean for i, mean in means.items() if mean is not None}
    return {i for i, mean in means.items() if mean == max(means.values())}


def _number(value, form):
    return MISSING if value is None else format(value, form)


def _dsc(stat):
    if stat is None or stat["mean"] is None:
        return MISSING
    return f"{stat['mean']:.3f}" + ("" if stat["std"] is None else f" ± {stat['std']:.3f}")


def _label(row):
    """The row's name with remarks: supervised, seeds missing, shared training."""
    remarks = ["supervised"] if row["supervised"] and "supervised" not in row["name"].lower() else []
    if len(row["seeds"]) < row["planned"]:
        remarks.append(f"{len(row['seeds'])} of {row['planned']} seeds")
    return row["name"] + (" †" if row["same_training_as"] else "") + (f" ({', '.join(remarks)})" if remarks else "")


def class_columns(rows: Rows) -> list[str]:
    """The class names of all rows in their order, and "mean" as the last."""
    return [*dict.fromkeys(name for row in rows for name in row["dsc"] if name != "mean"), "mean"]


def main_table(rows: Rows) -> Table:
    """Table 3: DSC of each class and their mean, one cluster to one class, with time and memory."""
    classes = class_columns(rows)
    header = ["model", "steps", "epochs", "C", *classes, "training (s)", "segmentation (s)", "fields of view",
              "peak memory (MB)"]  # fmt: skip
    body = [
        [
            _label(row), _number(row["steps"], ",d"), _number(row["epochs"], ".4g"),
            MISSING if row["supervised"] else _number(row["clusters"], "d"),
            *(_dsc(row["dsc"].get(name)) for name in classes),
            _number(row["train_seconds"]["mean"], ",.0f"), _number(row["segment_seconds"]["mean"], ",.1f"),
            _number(row["fovs"], ",d"), _number(row["peak_rss_mb"]["mean"], ",.0f"),
        ]
        for row in rows
    ]  # fmt: skip
    bold = frozenset((i, 3 + len(classes)) for i in best(rows))
    supervised = next((i for i, row in enumerate(rows) if row["supervised"]), None)
    return Table("Dice similarity coefficient (DSC), one cluster to one class", header, body, bold, supervised)


def cluster_table(rows: Rows, matching: str) -> Table:
    """Mean DSC by the number of clusters C, of the rows that cluster, by one of the two ways of matching."""
    rows = [row for row in rows if not row["supervised"]]
    sizes = sorted({size for row in rows for size in row["by_clusters"][matching]})
    nothing = {"mean": None}
    body = [
        [_label(row), *(_number(row["by_clusters"][matching].get(c, nothing)["mean"], ".3f") for c in sizes)]
        for row in rows
    ]
    return Table(CAPTIONS[matching], ["model", *(f"C = {size}" for size in sizes)], body)


def notes(rows: Rows) -> list[str]:
    """Notes for readers of the tables, one or two sentences each."""
    seeds = max((row["planned"] for row in rows), default=0)
    over = f"mean ± standard deviation (n - 1) over {seeds} seeds" if seeds > 1 else "of one seed, without a spread"
    devices = sorted({device for row in rows for device in row["devices"]})
    text = [
        f"DSC: {over}. Which cluster stands for which class is decided by Hungarian matching.",
        "Every score is that of a run's last checkpoint: no epoch was chosen by its score.",
        "Bold: the best mean without labels, among rows with all their seeds.",
        f"Training and segmentation: seconds, mean over seeds, on {' and '.join(devices) or 'no device yet'}.",
        "Peak memory: resident host memory of the process that trains, segments and scores.",
    ]
    if any(row["supervised"] for row in rows):
        text.append("Supervised rows are trained with labels and stand apart: they are not compared with the others.")
    if any(row["baseline"] for row in rows):
        text.append("The classical baselines are scored within the first row, whose peak memory includes theirs.")
    shared = [f"{row['name']} those of {row['same_training_as']}" for row in rows if row["same_training_as"]]
    if shared:
        text.append(
            f"†: has the checkpoints of another row ({'; '.join(shared)}), from which it differs after training only. "
            "Its training time is that row's, its peak memory is without training."
        )
    short = [
        f"{row['name']} {len(row['seeds'])} of {row['planned']}" for row in rows if len(row["seeds"]) < row["planned"]
    ]
    if short:
        text.append(f"Not complete. Seeds scored so far: {', '.join(short)}.")
    return text


def _tables(rows):
    return [main_table(rows), cluster_table(rows, "one_to_one"), cluster_table(rows, "many_to_one")]


def markdown(rows: Rows) -> str:
    """The three tables, and the notes."""

    def escaped(cells):
        return [cell.replace("|", "\\|") for cell in cells]

    parts = []
    for table in _tables(rows):
        lines = []
        for i, row in enumerate(table.rows):
            if i == table.supervised:
                lines.append(["*trained with labels:*", *[""] * (len(row) - 1)])
            lines.append(escaped(f"**{cell}**" if (i, j) in table.bold else cell for j, cell in enumerate(row)))
        align = ["left", *["right"] * (len(table.header) - 1)]
        text = tabulate.tabulate(
            lines, escaped(table.header), tablefmt="pipe", disable_numparse=True, colalign=align if lines else None
        )
        parts.append(f"**{table.caption}**\n\n{text}")
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(rows))]) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "–": "--", "†": r"$\dagger$",
}  # fmt: skip


def escape(text: str) -> str:
    """Escapes text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(rows: Rows) -> str:
    """The three tables as floats, with the notes under the first; needs the package booktabs."""
    parts = [r"% Needs \usepackage{booktabs}."]
    for table in _tables(rows):
        lines = [" & ".join(map(escape, table.header)) + r" \\", r"\midrule"]
        for i, row in enumerate(table.rows):
            lines += [r"\midrule"] if i == table.supervised and i else []
            cells = (rf"\textbf{{{escape(c)}}}" if (i, j) in table.bold else escape(c) for j, c in enumerate(row))
            lines.append(" & ".join(cells) + r" \\")
        below = [r"\par\smallskip " + escape(" ".join(notes(rows)))] if len(parts) == 1 else []
        parts.append("\n".join([
            r"\begin{table}", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(table.caption)}}}", rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", *below, r"\end{table}",
        ]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def comma_separated(rows: Rows) -> str:
    """All values, a line for each row; every class, C and way of matching has columns of its own."""
    classes = class_columns(rows)
    sizes = {m: sorted({c for row in rows for c in row["by_clusters"][m]}) for m in CAPTIONS}
    plain = (
        "name",
        "method",
        "supervised",
        "seeds",
        "planned",
        "clusters",
        "steps",
        "epochs",
        "fovs",
        "same_training_as",
    )

    def line(row):
        cells = {key: row[key] for key in plain} | {"seeds": " ".join(map(str, row["seeds"]))}
        stats = {f"dsc_{name}": row["dsc"].get(name) for name in classes}
        stats |= {key: row[key] for key in ("train_seconds", "segment_seconds", "peak_rss_mb")}
        stats |= {f"{m}_c{c}": row["by_clusters"][m].get(c) for m in sizes for c in sizes[m]}
        for key, stat in stats.items():
            cells[f"{key}_mean"], cells[f"{key}_std"] = (stat["mean"], stat["std"]) if stat else (None, None)
        return cells

    text, lines = io.StringIO(), [line(row) for row in rows]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in each.items()} for each in lines)
    return text.getvalue()
