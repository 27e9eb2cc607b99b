"""The metrics of a run as a table on the terminal, as metrics.json and as metrics.csv.

The dictionary all three are made from ("dsc" as in `dice.Scores`, NaN for an absent class):

    {"method": "his4mae", "clusters": C, "seconds": {"train": s, "segment": s},
     "dsc": {"one_to_one": {class: x, …, "mean": x}, "many_to_one": {…}},
     "by_clusters": {"6": {"one_to_one": {…}, "many_to_one": {…}}, …},         # optional: other C
     "matching": {"centres": hash, "one_to_one": {label: class or None, …}, "many_to_one": {…}},  # of the headline
     "baselines": {name: {"dsc", "clusters", "seconds", "by_clusters"}, …},    # optional
     "curve": [{"step": n, "dsc": {"one_to_one": {…}}}, …]}                    # optional
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import tabulate

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.files import csv_cell, write_text

MATCHINGS = {"one_to_one": "one-to-one", "many_to_one": "many-to-one"}


def terminal_table(metrics: dict[str, Any]) -> str:
    """Dice similarity coefficients as plain text, three decimals, "n/a" for an absent class.

    Rows are the methods (this run first, then the baselines), each with both matchings, many-to-one
    first where there are more clusters than classes; columns are the classes and their mean. If
    other numbers of clusters C were scored as well, a second table has a row for every method,
    matching and C.
    """
    rows = list(_rows(metrics))
    if more_clusters_than_classes(metrics):
        order = list(dict.fromkeys(method for method, *_ in rows))
        rows.sort(key=lambda row: (order.index(row[0]), row[1] == "one_to_one"))  # C stays ascending
    if not rows:
        return "No scores: no ground truth was given."
    classes = list(dict.fromkeys(name for *_, dsc in rows for name in dsc if name != "mean"))
    columns = [*classes, "mean"]
    headline = {method: clusters for method, clusters, _ in _methods(metrics)}
    main = [row for row in rows if row[2] == headline[row[0]]]
    text = "Dice similarity coefficient\n\n" + _table(main, columns)
    if len(main) < len(rows):
        text += "\n\nBy number of clusters C\n\n" + _table(rows, columns)
    return text


def more_clusters_than_classes(metrics: dict[str, Any]) -> bool:
    """Whether clusters have to be merged, so that all of them count: there are more than classes."""
    dsc = (metrics.get("dsc") or {}).get("one_to_one") or {}
    return int(metrics.get("clusters", 0)) > len([name for name in dsc if name != "mean"]) > 0


def write_metrics(metrics: dict[str, Any], workdir: PathLike) -> None:
    """Writes metrics.json and metrics.csv into `workdir`, each whole or not at all.

    In metrics.json NaN is null: JSON has no NaN, and most readers refuse it. metrics.csv has one
    row for each method, matching, number of clusters and class ("mean" is one of them), with an
    empty dsc for an absent class.
    """
    workdir = place(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(metrics), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(workdir / "metrics.json", text + "\n")

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["method", "matching", "clusters", "class", "dsc"])
    for method, matching, clusters, dsc in _rows(metrics):
        for name, value in dsc.items():
            number = "" if _absent(value) else repr(float(value))
            writer.writerow([csv_cell(method), matching, clusters, csv_cell(name), number])
    write_text(workdir / "metrics.csv", table.getvalue())


def _methods(metrics: dict) -> Iterator[tuple[str, int, dict]]:
    """(name, C of the headline, its block) of this run and then of each baseline."""
    blocks = {metrics["method"]: metrics, **(metrics.get("baselines") or {})}
    for name, block in blocks.items():
        yield name, int(block["clusters"]), block


def _rows(metrics: dict) -> Iterator[tuple[str, str, int, dict]]:
    """(method, matching, C, dsc): by method, then by matching, then by C, so that trends show."""
    for method, clusters, block in _methods(metrics):
        by_clusters = {int(c): dsc for c, dsc in (block.get("by_clusters") or {}).items()}
        if block.get("dsc"):
            by_clusters[clusters] = block["dsc"]
        for matching in MATCHINGS:
            for count in sorted(by_clusters):
                if by_clusters[count].get(matching):
                    yield method, matching, count, by_clusters[count][matching]


def _table(rows: list[tuple[str, str, int, dict]], columns: list[str]) -> str:
    lines, previous = [], None
    for method, matching, clusters, dsc in rows:
        values = ["n/a" if _absent(dsc.get(name)) else f"{float(dsc[name]):.3f}" for name in columns]
        if previous not in (None, method):  # a rule between methods
            lines.append(tabulate.SEPARATING_LINE)
        lines.append(["" if method == previous else method, MATCHINGS[matching], str(clusters), *values])
        previous = method
    align = ["left", "left", "right", *["right"] * len(columns)]
    header = ["method", "matching", "C", *columns]
    return tabulate.tabulate(lines, header, tablefmt="simple", disable_numparse=True, colalign=align)


def _absent(value) -> bool:
    return value is None or math.isnan(value)


def _plain(value):
    """The same with NaN and infinity as None and NumPy's scalars and arrays as Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
