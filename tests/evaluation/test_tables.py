"""Tables of the scores: on the terminal, as JSON and as CSV."""

import csv
import json

import numpy as np
import pytest

from his4mae_jax import files
from his4mae_jax.evaluation import tables

NAN = float("nan")


def matchings(nucleus, golgi):
    return {
        "one_to_one": {"nucleus": nucleus, "golgi": golgi, "mean": nucleus},
        "many_to_one": {"nucleus": 0.9, "golgi": golgi, "mean": 0.9},
    }


@pytest.fixture
def metrics():
    return {
        "method": "his4mae",
        "dsc": matchings(np.float64(0.81249), NAN),
        "clusters": 4,
        "seconds": {"train": np.float32(12.5), "segment": 1},
        "baselines": {
            "intensity": {"dsc": matchings(0.25, 0.5), "clusters": 4, "seconds": {}},
        },
        "curve": [{"step": np.int64(10), "dsc": {"one_to_one": {"nucleus": 0.1, "mean": 0.1}}}],
    }


def rows_of(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def test_table_has_a_row_for_each_method_and_matching(metrics):
    metrics["clusters"] = metrics["baselines"]["intensity"]["clusters"] = 2
    text = tables.terminal_table(metrics)
    assert text.isascii()  # a terminal in any locale can print it
    rows = rows_of(text)
    assert rows[1] == ["method", "matching", "C", "nucleus", "golgi", "mean"]
    assert rows[3] == ["his4mae", "one-to-one", "2", "0.812", "n/a", "0.812"]
    assert rows[4] == ["many-to-one", "2", "0.900", "n/a", "0.900"]
    assert rows[6] == ["intensity", "one-to-one", "2", "0.250", "0.500", "0.250"]
    table = text.splitlines()[2:]
    assert len({len(line) for line in table}) == 1  # columns line up
    assert "By number of clusters" not in text


def test_merged_scores_come_first_where_there_are_more_clusters_than_classes(metrics):
    rows = rows_of(tables.terminal_table(metrics))
    assert [row[0] for row in rows[3:5]] == ["his4mae", "one-to-one"] and rows[3][1] == "many-to-one"
    assert rows[6][:2] == ["intensity", "many-to-one"]


def test_second_table_for_other_numbers_of_clusters(metrics):
    metrics["by_clusters"] = {"10": matchings(0.7, 0.1), "6": matchings(0.6, 0.2)}
    first, second = tables.terminal_table(metrics).split("By number of clusters C")
    assert ["one-to-one", "4", "0.812", "n/a", "0.812"] in rows_of(first)
    assert "0.700" not in first
    counts = [row[-4] for row in rows_of(second) if "one-to-one" in row]
    assert counts == ["4", "6", "10", "4"]


def test_the_headline_is_not_listed_twice(metrics):
    metrics["by_clusters"] = {"4": metrics["dsc"]}
    assert "By number of clusters" not in tables.terminal_table(metrics)


def test_without_ground_truth():
    assert "no ground truth" in tables.terminal_table({"method": "his4mae", "clusters": 4})


def test_json_is_strict_and_keeps_everything(metrics, tmp_path):
    tables.write_metrics(metrics, tmp_path / "new" / "run")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "new" / "run" / "metrics.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found["dsc"]["one_to_one"] == {"nucleus": 0.81249, "golgi": None, "mean": 0.81249}
    assert found["seconds"] == {"train": 12.5, "segment": 1}
    assert found["curve"][0]["step"] == 10
    assert tables.terminal_table(found) == tables.terminal_table(metrics)


def test_csv_has_a_row_for_each_score(metrics, tmp_path):
    metrics["by_clusters"] = {"6": matchings(0.6, 0.2)}
    tables.write_metrics(metrics, tmp_path)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 3  # (his4mae at 4 and 6, intensity) × matchings × columns
    keys = [tuple(row.values())[:4] for row in rows]
    assert len(set(keys)) == len(keys)
    scores = dict(zip(keys, (row["dsc"] for row in rows), strict=True))
    assert scores["his4mae", "one_to_one", "4", "nucleus"] == "0.81249"
    assert scores["his4mae", "one_to_one", "4", "golgi"] == ""
    assert scores["his4mae", "one_to_one", "6", "golgi"] == "0.2"


def test_a_failed_write_leaves_the_old_file(metrics, tmp_path, monkeypatch):
    tables.write_metrics(metrics, tmp_path)
    before = (tmp_path / "metrics.json").read_text()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError):
        tables.write_metrics(metrics | {"clusters": 5}, tmp_path)
    assert (tmp_path / "metrics.json").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]
