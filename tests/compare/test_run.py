"""The comparison: what is run and what is not, the rows' settings, statistics over seeds, and the tables."""

import csv
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from outputs import outputs

from his4mae_jax import config as configs
from his4mae_jax.cli import config_file
from his4mae_jax.compare import process as compare_process
from his4mae_jax.compare import rows as compare_rows
from his4mae_jax.compare import run as compare
from his4mae_jax.compare import tables as compare_tables
from his4mae_jax.compare import text as compare_text
from his4mae_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = ("cell", "granules_%")

# In place of a training: what `main --mode=all` leaves, from the settings of row.json.
CHILD = """
import json, pathlib, sys
row, folder = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
with open(folder.parents[1] / "started.txt", "a") as file:
    print(folder.parent.name, folder.name, file=file)
print("beginning", flush=True)
if (folder.parents[1] / f"break_{folder.parent.name}").exists():
    sys.exit("error: the loss is not finite")
step = folder / "checkpoints" / str(row["train"]["steps"])
if not step.exists():
    (folder / "checkpoints").mkdir(exist_ok=True)
    step.mkdir()
    (step / "weights").write_text(folder.parent.name)
    (folder / "train.jsonl").write_text("{}")
def dsc(x):
    one = {"cell": x, "granules_%": x / 2, "mean": 0.75 * x}
    return {"one_to_one": one, "many_to_one": {k: min(0.9, v + 0.2) for k, v in one.items()}}
good = {"his4mae": 0.6, "maester": 0.4, "vit": 0.88}[row["method"]] + 0.02 * row["seed"] ** 2
if row["segment"]["stride"] == 5:
    good += 0.01
sizes = sorted({row["segment"]["clusters"], *row["evaluate"]["clusters"]})
block = {"clusters": row["segment"]["clusters"], "dsc": dsc(good), "seconds": {"train": 10.0, "segment": 2.0},
         "by_clusters": {str(c): dsc(good + 0.001 * (c - sizes[0])) for c in sizes}}
base = {k: {**block, "dsc": dsc(0.3), "seconds": {"segment": 1.0}} for k in row["evaluate"]["baselines"]}
image = pathlib.Path(row["data"]["root"], "phantom", f"cell_{row['data']['phantom']['cells']}", "image.ome.zarr")
out = folder / "volumes" / image.parent.name
out.mkdir(parents=True, exist_ok=True)
(out / "volume.json").write_text(json.dumps({"volume": str(image), "identity": str(image.resolve())}))
(out / "segment.json").write_text(json.dumps({"fovs": 1234, "seconds": 2.0}))
(out / "metrics.json").write_text(json.dumps({"method": row["method"], **block, "baselines": base}))
"""


@pytest.fixture
def config(tiny):
    tiny.data.source = "phantom"
    tiny.segment.stride = 10
    tiny.compare.rows = (
        ("HiS4MAE", ()),
        ("HiS4MAE, stride 5", ("segment.stride=5",)),
        ("MAESTER", ("method=maester", "model.cls_token=True")),
        ("ViT", ("method=vit",)),
    )
    tiny.compare.seeds = (0, 1)
    tiny.evaluate.clusters = (6,)
    return tiny


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Processes are replaced by CHILD; returns a function that lists the runs started since it was last asked."""
    child, seen = tmp_path / "child.py", tmp_path / "runs" / "started.txt"
    child.write_text(CHILD)
    monkeypatch.setattr(
        compare_process, "command", lambda run: [sys.executable, str(child), str(run.folder / "row.json"), run.folder]
    )
    monkeypatch.setattr(compare_process, "device_name", lambda: "1 x abacus")

    def list_and_forget():
        lines = seen.read_text().splitlines() if seen.exists() else []
        seen.unlink(missing_ok=True)
        return lines

    return list_and_forget


def run(config, tmp_path, log=lambda message: None):
    return compare.run(config, str(tmp_path / "runs"), log)


def test_every_row_and_seed_runs_once_and_only_what_is_missing_runs_again(config, tmp_path, started, capsys):
    said = []
    rows = run(config, tmp_path, said.append)
    assert started() == [
        f"{row} seed{seed}" for row in ("his4mae", "his4mae-stride-5", "maester", "vit") for seed in (0, 1)
    ]
    assert [line for line in said if "HiS4MAE, seed 1" in line][0].startswith("compare: 2/8")
    assert "mean DSC 0.465" in "".join(said)  # 0.75 * (0.6 + 0.02)
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "runs" / "table.md").read_text().strip()
    facts = json.loads((tmp_path / "runs" / "vit" / "seed1" / "run.json").read_text())
    assert facts["seconds"] > 0 and facts["peak_rss_mb"] > 1 and facts["device"] == "1 x abacus" and facts["cpus"] > 0
    assert "beginning" in (tmp_path / "runs" / "vit" / "seed1" / "log.txt").read_text()

    (outputs(tmp_path / "runs" / "maester" / "seed1") / "metrics.json").unlink()
    config.compare.seeds = (0, 1, 2)
    again = run(config, tmp_path)
    assert started() == ["his4mae seed2", "his4mae-stride-5 seed2", "maester seed1", "maester seed2", "vit seed2"]
    assert [row["name"] for row in again] == [row["name"] for row in rows]
    assert all(row["seeds"] == [0, 1, 2] for row in again)
    seconds = json.loads((tmp_path / "runs" / "maester" / "seed1" / "run.json").read_text())["seconds"]
    first = json.loads((tmp_path / "runs" / "maester" / "seed0" / "run.json").read_text())["seconds"]
    assert seconds > first  # the sum of two processes
    run(config, tmp_path)
    assert started() == []


def test_settings_after_training_are_scored_again_from_the_same_checkpoints(config, tmp_path, started):
    run(config, tmp_path)
    started()
    config.evaluate.clusters, config.train.log_every = (6, 8), 7
    rows = run(config, tmp_path)
    assert len(started()) == 8 and set(rows[0]["by_clusters"]["one_to_one"]) == {4, 6, 8}


def test_another_training_in_a_folder_is_refused_before_anything_starts(config, tmp_path, started):
    run(config, tmp_path)
    started()
    folder = tmp_path / "runs" / "vit" / "seed0"
    saved = json.loads((folder / "row.json").read_text())
    saved["train"]["lr"] = 0.125
    (folder / "row.json").write_text(json.dumps(saved))
    (outputs(tmp_path / "runs" / "his4mae" / "seed0") / "metrics.json").unlink()  # would run first
    before = sorted(str(p) for p in (tmp_path / "runs").rglob("*"))
    with pytest.raises(UserError, match=r"train\.lr was 0\.125.*delete that folder") as caught:
        run(config, tmp_path)
    assert str(folder) in str(caught.value)
    assert started() == [] and sorted(str(p) for p in (tmp_path / "runs").rglob("*")) == before
    (folder / "row.json").write_text("{")
    with pytest.raises(UserError, match=r"row\.json: cannot be read"):
        run(config, tmp_path)


def test_a_run_that_fails_is_told_and_the_others_go_on(config, tmp_path, started):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "break_his4mae").touch()
    said = []
    with pytest.raises(UserError) as caught:
        run(config, tmp_path, said.append)
    assert "2 of 8 runs failed" in str(caught.value) and "\n" not in str(caught.value)
    assert "HiS4MAE, seed 0 (the loss is not finite)" in str(caught.value)
    assert len(started()) == 8 and any("FAILED: the loss is not finite" in line for line in said)
    rows = json.loads((tmp_path / "runs" / "table.json").read_text())["rows"]
    assert {row["name"]: len(row["seeds"]) for row in rows} == {
        "HiS4MAE": 0, "HiS4MAE, stride 5": 2, "MAESTER": 2, "ViT": 2
    }  # fmt: skip
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| HiS4MAE (0 of 2 seeds) | 20 | 5 | – | – |" in re.sub(r" +", " ", table)
    assert "Seeds scored so far: HiS4MAE 0 of 2." in table
    (tmp_path / "runs" / "break_his4mae").unlink()
    run(config, tmp_path)
    assert started() == ["his4mae seed0", "his4mae seed1"]


def test_a_killed_process_is_told_by_its_signal(config, tmp_path, started, monkeypatch):
    code = "import os; print('step 3', flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(compare_process, "command", lambda run: [sys.executable, "-c", code])
    with pytest.raises(UserError, match="SIGKILL.*memory.*step 3"):
        run(config, tmp_path)


def test_rows_that_differ_after_training_share_it(config, tmp_path, started):
    rows = {row["name"]: row for row in run(config, tmp_path)}
    ours, other = (tmp_path / "runs" / name / "seed1" for name in ("his4mae", "his4mae-stride-5"))
    assert (other / "checkpoints" / "20" / "weights").read_text() == "his4mae"
    assert (other / "train.jsonl").read_text() == "{}"
    assert rows["HiS4MAE, stride 5"]["same_training_as"] == "HiS4MAE"
    assert rows["HiS4MAE"]["same_training_as"] is None and rows["MAESTER"]["same_training_as"] is None
    (ours / "checkpoints" / "20" / "weights").unlink()
    assert (other / "checkpoints" / "20" / "weights").read_text() == "his4mae"
    (ours / "checkpoints" / "20").rename(ours / "checkpoints" / "10")  # not the whole training
    plan = {(r.name, r.seed): r for r in compare_rows.plan(config, tmp_path / "runs")}
    donor, taker = plan["HiS4MAE", 1], plan["HiS4MAE, stride 5", 1]
    assert compare.share_training(donor, [plan["MAESTER", 1], plan["HiS4MAE, stride 5", 0]]) is None
    for path in (other / "checkpoints" / "20").iterdir():
        path.unlink()
    (other / "checkpoints" / "20").rmdir()
    assert compare.share_training(taker, [donor]) is None and not (other / "checkpoints" / "10").exists()


def test_rows_and_seeds_see_the_same_cells_and_baselines_are_scored_once_a_seed(config, tmp_path):
    config.seed = 3
    config.compare.rows = (("ViT", ("method=vit",)), *config.compare.rows[:2], ("big", ("data.phantom.size=64",)))
    runs = compare_rows.plan(config, tmp_path)
    assert [(run.settings["seed"], run.settings["data"]["phantom"]["seed"]) for run in runs] == [(0, 3), (1, 3)] * 4
    roots = [run.settings["data"]["root"] for run in runs]
    assert len(set(roots[:6])) == 1 and pathlib.Path(roots[0]).is_relative_to(tmp_path / "data")
    assert len(set(roots[6:])) == 1 and roots[0] != roots[6]
    baselines = [tuple(run.settings["evaluate"]["baselines"]) for run in runs]
    assert baselines == [()] * 2 + [("intensity", "filters")] * 2 + [()] * 4
    assert all(run.settings["compare"]["rows"] == [] for run in runs)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((), "compare.rows is empty"),
        ((("a", ("train.stpes=3",)),), "'a'.*train.stpes.*train.steps"),
        ((("a", ("method=resnet",)),), "'a'.*resnet.*his4mae.*segmenter"),
        ((("a", ("train.steps",)),), "'a'.*key=value"),
        ((("a", ("train.steps=many",)),), "'a'.*train.steps cannot be many"),
        ((("a", ("segment.stride=3",)),), "'a'.*segment.stride is 3"),
        ((("a", ("seed=3",)),), "compare.seeds"),
        ((("a", ("evaluate.baselines=()",)),), "evaluate.baselines"),
        ((("a", ()), ("A!", ())), "'A!'.*folder a with 'a'"),
        ((("Data", ()),), "'Data'.*folder data"),
        ((("!", ()),), "letter or digit"),
        ((("a",),), "a tuple of pairs"),
        ((("a", ("segment.volume=x.tif",)),), "'a'.*segment.volume"),
    ],
)
def test_bad_rows_are_refused(config, tmp_path, started, rows, words):
    config.compare.rows = rows
    with pytest.raises(UserError, match=words):
        run(config, tmp_path)
    assert started() == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("seeds", [(), (0, 0), (0.5,), (-1,)])
def test_bad_seeds_are_refused(config, tmp_path, seeds):
    config.compare.seeds = seeds
    with pytest.raises(UserError, match="compare.seeds"):
        compare_rows.plan(config, tmp_path)


def test_figures_that_cannot_be_drawn_are_refused(config, tmp_path):
    config.compare.figures = ("codebook",)
    with pytest.raises(UserError, match="codebook.size"):
        compare_rows.plan(config, tmp_path)
    config.compare.figures, config.evaluate.curve_box = ("curves",), 0
    with pytest.raises(UserError, match="evaluate.curve_box"):
        compare_rows.plan(config, tmp_path)
    config.compare.rows = (("a", ("evaluate.curve_box=64",)),)
    assert compare_rows.plan(config, tmp_path)


def test_supervised_rows_may_not_learn_from_what_scores_them(config, tmp_path):
    config.data.source, config.data.train, config.data.test = "files", ("a.tif",), "b.tif"
    config.data.test_labels, config.data.class_names = "b_labels.tif", CLASSES
    config.data.train_labels = ("a_labels.tif",)
    assert compare_rows.plan(config, tmp_path)
    config.data.train_labels = ("b_labels.tif",)
    with pytest.raises(UserError, match="'ViT'.*learn from b_labels.tif"):
        compare_rows.plan(config, tmp_path)
    config.data.test_labels = ""
    with pytest.raises(UserError, match="'HiS4MAE'.*data.test_labels"):
        compare_rows.plan(config, tmp_path)


def test_values_are_literals_or_bare_words():
    assert compare_rows.parse("1e-3", 0.5) == 1e-3 and compare_rows.parse("False", True) is False
    assert compare_rows.parse("[4, 6]", ()) == (4, 6) and compare_rows.parse("nearest", "linear") == "nearest"
    assert compare_rows.parse("4", "cell") == "4" and compare_rows.parse("'zyx'", "z") == "zyx"


def test_statistics_over_seeds():
    values = np.random.default_rng(0).uniform(size=5)
    found = compare_tables.spread(values)
    np.testing.assert_allclose([found["mean"], found["std"]], [values.mean(), values.std(ddof=1)], rtol=1e-12)
    assert compare_tables.spread([0.25]) == {"mean": 0.25, "std": None, "values": [0.25]}
    assert compare_tables.spread([None, float("nan")]) == {"mean": None, "std": None, "values": [None, None]}
    assert compare_tables.spread([0.5, float("nan"), 1.0])["mean"] == 0.75


def test_tables_hold_the_scores(config, tmp_path, started):
    config.compare.seeds = (0, 1, 2)
    rows = run(config, tmp_path)
    content = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert [row["name"] for row in content["rows"]] == [
        "HiS4MAE", "HiS4MAE, stride 5", "MAESTER", "Intensity, k-means", "Filter features, k-means", "ViT"
    ]  # fmt: skip
    scores = [0.75 * (0.6 + 0.02 * seed**2) for seed in range(3)]
    mean = content["rows"][0]["dsc"]["mean"]
    np.testing.assert_allclose(mean["values"], scores)
    np.testing.assert_allclose([mean["mean"], mean["std"]], [np.mean(scores), np.std(scores, ddof=1)])
    assert content["rows"][0]["epochs"] == 5 and content["rows"][3]["steps"] is None  # 20 steps of 4, of 16 an epoch

    with open(tmp_path / "runs" / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [row["name"] for row in rows]
    np.testing.assert_allclose(float(lines[0]["dsc_mean_std"]), np.std(scores, ddof=1))
    np.testing.assert_allclose(float(lines[0]["dsc_granules_%_mean"]), np.mean(scores) / 0.75 / 2)
    np.testing.assert_allclose(float(lines[0]["one_to_one_c6_mean"]), np.mean(scores) + 0.0015)
    np.testing.assert_allclose(float(lines[2]["many_to_one_c4_mean"]), 0.75 * (0.4 + 0.1 / 3) + 0.2)

    text = (tmp_path / "runs" / "table.md").read_text()
    assert "0.475 ± 0.031" in text and "3 seeds" in text and "last checkpoint: no epoch was chosen" in text
    bold = re.findall(r"\*\*(\d.*?)\*\*", text)
    assert bold == [f"{np.mean(scores) + 0.0075:.3f} ± {np.std(scores, ddof=1):.3f}"]  # not ViT's, though better
    main = text.split("\n\n")[1].splitlines()
    assert "trained with labels" in main[-2] and main[-1].startswith("| ViT (supervised) ")
    assert "HiS4MAE, stride 5 †" in text and "HiS4MAE, stride 5 those of HiS4MAE" in text
    for part in text.split("\n\n"):
        if part.startswith("| model"):
            assert len({line.count("|") for line in part.splitlines()}) == 1


def test_many_to_one_never_stands_among_one_to_one(config, tmp_path, started):
    """Many-to-one is 0.2 higher throughout, so that no value of the one is a value of the other."""
    rows = run(config, tmp_path)
    first = compare_text.main_table(rows)
    second, third = (compare_text.cluster_table(rows, matching) for matching in ("one_to_one", "many_to_one"))
    main, one, many = ({cell.split()[0] for row in t.rows for cell in row[1:]} for t in (first, second, third))
    assert "0.657" in many and "0.457" in one & main  # 0.75 * (0.6 + 0.01) at C = 4, and 0.2 more
    assert many.isdisjoint(one | main)
    assert "one cluster to one class" in first.caption and "many" not in second.caption
    assert [row[0] for row in third.rows] == [row[0] for row in second.rows]
    assert not any("ViT" in row[0] for row in (*second.rows, *third.rows))  # it has no clusters
    header = (tmp_path / "runs" / "table.csv").read_text().splitlines()[0].split(",")
    assert len(set(header)) == len(header)
    assert all(name.startswith(("one_to_one_c", "many_to_one_c")) for name in header if "to_one" in name)


def test_latex_has_the_right_columns_and_escapes(config, tmp_path, started):
    config.compare.rows = (("a_b & 50 % ~{x}", ()), ("ViT", ("method=vit",)))
    run(config, tmp_path)
    text = (tmp_path / "runs" / "table.tex").read_text()
    assert r"a\_b \& 50 \% \textasciitilde{}\{x\}" in text and r"granules\_\%" in text and r"$\pm$" in text
    tabulars = re.findall(r"\\begin\{tabular\}\{(.*?)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tabulars) == 3
    for columns, body in tabulars:
        assert body.count(r"\toprule") == body.count(r"\bottomrule") == 1 and r"\midrule" in body
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 3
        for line in lines:
            assert len(re.split(r"(?<!\\)&", line)) == len(columns)
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert not set(text) & set("±–†")


def test_a_single_seed_has_no_spread(config, tmp_path, started):
    config.compare.seeds = (0,)
    run(config, tmp_path)
    text = (tmp_path / "runs" / "table.md").read_text()
    assert "±" not in text and "one seed" in text


def test_a_row_that_has_not_begun_is_in_the_table(config, tmp_path):
    rows = compare_tables.collect(tmp_path, compare_rows.named_rows(config), (0, 1))
    assert [row["supervised"] for row in rows] == [False, False, False, True] and rows[0]["steps"] is None
    compare_tables.write(tmp_path, rows)
    assert "ViT (supervised, 0 of 2 seeds)" in (tmp_path / "table.md").read_text()


def test_peak_memory_is_that_of_the_run_alone(tmp_path):
    """A small process after a large one; RUSAGE_CHILDREN would say the large one's peak."""
    code = (
        "import sys\nfrom his4mae_jax.compare.process import execute\n"
        f"log = {str(tmp_path / 'log.txt')!r}\n"
        "for code in ('b = bytearray(200_000_000)', ''):\n"
        "    usage = execute([sys.executable, '-c', code], log)\n"
        "    print(usage.peak_rss_mb, usage.status, usage.seconds)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (large, *_), (small, status, seconds) = (map(float, line.split()) for line in done.stdout.splitlines())
    assert large > 200 > 100 > small > 2 and status == 0 and 0 < seconds < 30


def test_sigterm_ends_the_process_too(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys\nfrom his4mae_jax.compare.process import execute, sigterm_interrupts\n"
        "with sigterm_interrupts():\n"
        f"    usage = execute([sys.executable, '-c', {child!r}], {str(tmp_path / 'log.txt')!r})\n"
        "print(usage.interrupted, usage.status)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.time() < deadline:
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGTERM)
    out, _ = parent.communicate(timeout=30)
    assert out.split() == ["True", str(-signal.SIGTERM)]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_saved_config_comes_back(config, tmp_path):
    saved = load(ROOT / "configs" / "saved.py")
    config.train.lr, config.data.train, config.data.source = 0.125, ("a.tif", "b.tif"), "files"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert saved.get_config(str(path)).to_dict() == config.to_dict()  # tuples within tuples, too
    config.data.source = "phantom"
    run = compare_rows.plan(config, tmp_path)[2]
    path.write_text(json.dumps(run.settings))
    assert json.loads(json.dumps(saved.get_config(str(path)).to_dict())) == run.settings
    path.write_text('{"train": {"steps": 7}}')
    assert saved.get_config(str(path)).train.steps == 7 and saved.get_config(str(path)).train.lr == 5e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"train": {"stpes": 7}}', "train.stpes.*train.steps"), ('{"train": {"steps": "many"}}', "train.steps.*many"),
        ('{"train": 7}', "train"), ("{", "cannot be read"), ("[]", "settings"), (None, "cannot be read"),
    ],
)  # fmt: skip
def test_a_bad_saved_config_is_named(tmp_path, text, words):
    path = tmp_path / "some.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load(ROOT / "configs" / "saved.py").get_config(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.py")), ids=lambda path: path.stem)
def test_the_comparisons_of_the_repository_can_run(path, tmp_path):
    config = load(path).get_config()
    configs.validate(config)
    runs = compare_rows.plan(config, tmp_path)
    seeds = len(config.compare.seeds)
    assert len(runs) == seeds * len(config.compare.rows)
    assert f"his4mae compare --config=compare/{path.stem} " in path.read_text()
    trainings = {json.dumps(run.training, sort_keys=True) for run in runs}
    # Rows that segment with another's checkpoints.
    shared = {"ablations": 6, "codebook_size": 0, "epfl": 1, "long": 0, "paper": 4, "table3": 2}[path.stem]
    assert len(trainings) == seeds * (len(config.compare.rows) - shared)


def test_the_command_names_files_that_are_there(config, tmp_path):
    args = compare_process.command(compare_rows.plan(config, tmp_path)[0])
    path, row = config_file.find(args[3].removeprefix("--config="))
    assert path.is_file() and row == str(tmp_path / "his4mae" / "seed0" / "row.json")
    assert args[-1] == "--mode=all" and f"--workdir={tmp_path / 'his4mae' / 'seed0'}" in args


def test_files_of_the_user_in_a_runs_folder_stay(config, tmp_path, started):
    runs = compare_rows.plan(config, tmp_path / "runs")
    folder = runs[-1].folder
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "mine").write_text("weeks")
    with pytest.raises(UserError, match="checkpoints: in the way"):
        compare_rows.check_folders(runs)
    (folder / "row.json").write_text(json.dumps(runs[-1].settings))
    compare_rows.check_folders(runs)
    assert compare.share_training(runs[-1], runs) is None  # nobody has trained yet
    run(config, tmp_path)
    assert (folder / "checkpoints" / "mine").read_text() == "weeks"
    (folder / "checkpoints.partial").write_text("mine")
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="checkpoints.partial: in the way"):
        compare_rows.check_folders(runs)
    (folder / "run.json").write_text('{"copies": "checkpoints.partial"}')  # killed while it copied
    compare_rows.check_folders(runs)
