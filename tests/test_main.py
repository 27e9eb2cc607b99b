"""The command as a user runs it: stages, workdir contract, resume after kill, bad input."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from outputs import outputs

from his4mae_jax import main
from his4mae_jax.cli.command import main as his4mae
from his4mae_jax.config import get_default
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    "--config.model.fov=20", "--config.model.embed_dim=8", "--config.model.depth=1", "--config.model.decoder_dim=8",
    "--config.model.decoder_depth=1", "--config.model.decoder_num_heads=2", "--config.codebook.size=6",
    "--config.data.crop_min=10", "--config.train.batch_size=4", "--config.train.samples_per_epoch=16",
    "--config.train.log_every=5", "--config.segment.stride=10", "--config.segment.fraction=0.05",
    "--config.evaluate.curve_box=24", "--config.segment.mask_margin=0",
)  # fmt: skip


FOREIGN = ("torch", "tensorflow")


def command(*args, **more):
    return dict(args=[sys.executable, "-m", "his4mae_jax.main", *args], cwd=ROOT, text=True, **more)


def run(*args, **more):
    return subprocess.run(**command(*args, **more), capture_output=True)


def textured(shape, seed):
    """An image of two textures and the mask of the second."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    mask[:, shape[1] // 3 : 2 * shape[1] // 3, shape[2] // 4 : 3 * shape[2] // 4] = True
    image = 120 + 12 * rng.normal(size=shape)
    image[mask] += 70 * (np.indices(shape)[2][mask] // 2 % 2) - 35
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def betaseg(tmp_path_factory):
    """A tiny copy of BetaSeg's folder layout: `download/{cell}/{cell}_{part}.tif`."""
    root = tmp_path_factory.mktemp("betaseg")
    for seed, cell in enumerate(("high_c1", "high_c2", "high_c3", "high_c4")):
        folder = root / "download" / cell
        folder.mkdir(parents=True)
        image, organelle = textured((24, 40, 44), seed)
        cell_mask = np.zeros(image.shape, np.uint8)
        cell_mask[2:-2, 3:-3, 3:-3] = 255
        nucleus, mitochondria, granules = (np.zeros(image.shape, np.uint16) for _ in range(3))
        nucleus[:, :20][organelle[:, :20]] = 1
        mitochondria[:, 20:][organelle[:, 20:]] = 255
        granules[4:9, 8:12, 8:12], granules[14:19, 8:12, 30:34] = 1, 2  # instance ids
        parts = {"source": image, "membrane_full_mask": cell_mask, "nucleus_mask": nucleus.astype(np.uint8),
                 "mitochondria_mask": mitochondria.astype(np.uint8), "granules": granules}  # fmt: skip
        for part, array in parts.items():
            tifffile.imwrite(folder / f"{cell}_{part}.tif", array)
    return root


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An environment where packages that a run is not to import are installed; each ends the process."""
    folder = tmp_path_factory.mktemp("foreign")
    for package in FOREIGN:
        (folder / package).mkdir()
        text = "import os, traceback\ntraceback.print_stack()\nos._exit(3)\n"
        (folder / package / "__init__.py").write_text(text)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}


@pytest.fixture(scope="module")
def betaseg_run(betaseg, foreign, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "betaseg"
    as_users_run_it = {**foreign, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = run("--config=configs/betaseg.py", f"--workdir={workdir}", f"--config.data.root={betaseg}", *SMALL,
               "--config.train.steps=20", "--config.evaluate.clusters=(6,)", env=as_users_run_it)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_betaseg_layout_trains_segments_and_evaluates(betaseg_run):
    workdir, done = betaseg_run
    for stage in ("train:", "segment:", "evaluate:", "figure:"):
        assert stage in done.stderr
    for word in ("nucleus", "mitochondria", "granules", "unrecognized", "one-to-one", "many-to-one", "intensity"):
        assert word in done.stdout


def test_workdir_contract(betaseg_run):
    workdir, _ = betaseg_run
    classes = {"unrecognized", "nucleus", "mitochondria", "granules", "mean"}
    assert json.loads((workdir / "config.json").read_text())["codebook"]["gamma"] == 0.8
    assert any(p.name == "20" for p in (workdir / "checkpoints").iterdir())
    with np.load(outputs(workdir) / "centres.npz") as centres:
        assert centres["centres_4"].shape == (4, 8) and centres["centres_6"].shape == (6, 8)
        assert centres["projection_4"].shape == (8, 8)
    labels = open_volume(outputs(workdir) / "labels.ome.zarr", image=False)
    assert labels.shape == (24, 40, 44) and labels.voxel_size_nm == (16.0,) * 3
    assert set(np.unique(labels.read((slice(None),) * 3))) <= {1, 2, 3, 4}
    metrics = json.loads((outputs(workdir) / "metrics.json").read_text())
    for block in (metrics, *metrics["baselines"].values()):
        assert set(block["dsc"]["one_to_one"]) == set(block["dsc"]["many_to_one"]) == classes
        assert block["clusters"] == 4 and block["seconds"]["segment"] > 0
    assert metrics["seconds"]["train"] > 0 and set(metrics["baselines"]) == {"intensity", "filters"}
    assert [point["step"] for point in metrics["curve"]][-1] == 20
    assert (outputs(workdir) / "metrics.csv").read_text().startswith("method,")
    assert {p.name for p in (outputs(workdir) / "figures").iterdir()} == {"training.png", "slices.png", "dsc.png"}
    lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert {"loss", "loss_recon", "loss_tea", "loss_stu", "lr", "images_per_s", "seconds"} <= set(lines[-1])
    assert "perplexity" in lines[-1]
    assert list((workdir / "tensorboard").glob("events*"))
    assert not list(workdir.glob("partial*")) and not (workdir / "baselines").exists()


def test_clusters_get_the_names_of_their_classes(betaseg_run, tmp_path):
    workdir, done = betaseg_run
    assert "clusters.yaml; name them there" in done.stderr
    shutil.copy(workdir / "config.json", tmp_path / "config.json")
    shutil.copytree(workdir / "volumes", tmp_path / "volumes")
    matching = json.loads((outputs(workdir) / "metrics.json").read_text())["matching"]
    assert set(matching["one_to_one"]) == set(matching["many_to_one"]) == set("1234")
    assert None not in matching["many_to_one"].values()
    his4mae(["name", f"--workdir={tmp_path}", "--from-truth"])
    names = matching["many_to_one"]
    ids = {name: i for i, name in enumerate(dict.fromkeys(names.values()), 1)}
    table = np.array([0, *(ids[names[c]] for c in "1234")])
    labels, organelles = (
        open_volume(outputs(tmp_path) / f"{name}.ome.zarr", image=False).read((slice(None),) * 3)
        for name in ("labels", "organelles")
    )
    assert np.array_equal(organelles, table[labels])


@pytest.mark.parametrize("package", FOREIGN)
def test_a_whole_run_imports_neither_tensorflow_nor_torch(package, betaseg_run, foreign):
    """The run that the fixture made would have ended where it imports one: stand-ins for them are on its path."""
    done = subprocess.run([sys.executable, "-c", f"import {package}"], env=foreign, capture_output=True, text=True)
    assert done.returncode == 3 and "<string>" in done.stderr  # and the stand-ins do end what imports them


def test_a_second_volume_is_segmented_with_the_trained_model(betaseg, betaseg_run):
    workdir, _ = betaseg_run
    other = betaseg / "download" / "high_c2" / "high_c2_source.tif"
    first = outputs(workdir)
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    args = ("--config=configs/betaseg.py", f"--workdir={workdir}", *SMALL, f"--config.data.root={betaseg}",
            "--config.train.steps=20")  # fmt: skip
    others = (f"--config.segment.volume={other}", "--config.segment.file_voxel_size_nm=(16.0,16.0,16.0)")
    try:
        done = run(*args, "--mode=segment", *others)
        assert done.returncode == 0, done.stderr
        second = workdir / "volumes" / "high_c2_source"
        assert json.loads((second / "segment.json").read_text())["volume"] == str(other)
        assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
        done = run(*args, "--mode=evaluate", *others)  # without ground truth it draws
        assert done.returncode == 0 and "no labels, so no scores" in done.stderr
        assert (second / "figures" / "slices.png").exists() and not (second / "metrics.json").exists()
    finally:
        shutil.rmtree(workdir / "volumes" / "high_c2_source", ignore_errors=True)


def test_phantom_source_draws_cells_once_and_holds_the_last_out(tmp_path):
    args = ("--config=configs/demo.py", f"--workdir={tmp_path}", "--config.data.phantom.size=64",
            "--config.data.phantom.cells=1", "--config.train.steps=4", "--config.train.batch_size=4",
            "--config.evaluate.curve_box=0", "--config.evaluate.baselines=()",
            "--config.report.after_stages=False")  # fmt: skip
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("drawing synthetic cell") == 2 and "loss_recon" in done.stderr
    facts = json.loads((outputs(tmp_path) / "segment.json").read_text())
    assert facts["volume"].endswith("cell_1/image.ome.zarr")
    assert json.loads((outputs(tmp_path) / "metrics.json").read_text())["baselines"] == {}
    again = run(*args)
    assert again.returncode == 0 and "drawing" not in again.stderr and "all 4 steps are done" in again.stderr


def train_args(betaseg, workdir):
    return ("--config=configs/betaseg.py", f"--workdir={workdir}", "--mode=train", f"--config.data.root={betaseg}",
            *SMALL, "--config.report.after_stages=False", "--config.train.steps=300",
            "--config.train.checkpoint_every=25", "--config.train.steps_per_call=2")  # fmt: skip


def final_state(workdir):
    """Every file of arrays in the last checkpoint, restored."""
    import jax
    from jax.sharding import SingleDeviceSharding

    from his4mae_jax.training.run.checkpoints import Checkpoints, read_config
    from his4mae_jax.training.step.state import state_like

    config = get_default()
    config.unlock()
    config.update(read_config(workdir))
    checkpoints = Checkpoints(workdir, config)
    step = checkpoints.steps()[-1]
    state, _ = checkpoints.restore(step, state_like(config), SingleDeviceSharding(jax.devices()[0]))
    checkpoints.close()
    return step, state


def test_killed_and_resumed_equals_never_stopped(betaseg, tmp_path):
    """SIGKILL at several moments; the final state agrees with an undisturbed run bit for bit."""
    import jax

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert run(*train_args(betaseg, undisturbed)).returncode == 0
    kills = 0
    for wait_for in (25, 100, 175):
        process = subprocess.Popen(**command(*train_args(betaseg, killed)), stderr=subprocess.DEVNULL)
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            steps = [int(p.name) for p in (killed / "checkpoints").glob("*") if p.name.isdigit()]
            if steps and max(steps) >= wait_for:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.01)
    assert kills >= 2  # the last may have been quicker than we
    resumed = run(*train_args(betaseg, killed))
    assert resumed.returncode == 0, resumed.stderr
    (step_a, a), (step_b, b) = final_state(undisturbed), final_state(killed)
    assert step_a == step_b == 300
    jax.tree.map(np.testing.assert_array_equal, a, b)
    logs = [[json.loads(line) for line in (w / "train.jsonl").read_text().splitlines()] for w in (undisturbed, killed)]
    assert [x["step"] for x in logs[0]] == [x["step"] for x in logs[1]]
    again = run(*train_args(betaseg, killed))
    assert again.returncode == 0 and "all 300 steps are done" in again.stderr


def one_line(done):
    """The only line that says "error"; no traceback."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_a_misspelt_key_names_the_nearest(tmp_path):
    done = run("--config=configs/demo.py", f"--workdir={tmp_path / 'run'}", "--config.train.stpes=5")
    assert "train.stpes" in one_line(done) and "train.steps" in one_line(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--config=configs/nowhere.py",), ("configs/nowhere.py",)),
        (("--config=configs/demo.py", "--config.train.steps=many"), ("train.steps", "many")),
        (("--config=configs/demo.py", "--mode=fly"), ("mode", "fly", "segment")),
        (("--config=configs/demo.py", "--stpes=4"), ("stpes",)),
        (("--config=configs/demo.py", "extra"), ("extra",)),
        ((), ("--config", "--help")),
    ],
    ids=["no config file", "wrong type", "unknown mode", "unknown flag", "stray word", "nothing"],
)
def test_bad_command_lines_are_one_line(tmp_path, args, words):
    line = one_line(run(f"--workdir={tmp_path / 'run'}", *args))
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()


# What follows needs no process of its own: `main.run` raises what `cli` prints.


@pytest.fixture
def files(tmp_path):
    """A config over real TIFF files that would train; tests spoil one thing each."""
    image, mask = textured((24, 40, 44), 0)
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "labels.tif", mask.astype(np.uint8))
    c = get_default()
    c.model.fov, c.data.crop_min, c.segment.stride, c.train.steps = 20, 10, 10, 5
    c.data.train = (str(tmp_path / "image.tif"),)
    c.data.test = str(tmp_path / "image.tif")
    c.data.test_labels = str(tmp_path / "labels.tif")
    c.data.class_names = ("background", "texture")
    c.data.file_voxel_size_nm = (10.0, 10.0, 10.0)
    return tmp_path, c


def refused(config, tmp_path, *words, mode="all"):
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(UserError) as caught:
        main.run(config, str(tmp_path / "run"), mode)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before  # nothing touched


def spoil(array, name):
    array = array.copy()
    if name == "nan":
        array = array.astype(np.float32)
        array[3, 4, 5] = np.nan
    elif name == "constant":
        array[:] = 7
    elif name == "dtype":
        array = array.astype(np.complex64)
    elif name == "small":
        array = array[:, :15, :15]
    return array


@pytest.mark.parametrize(
    ("name", "word"), [("nan", "NaN"), ("constant", "every voxel"), ("dtype", "complex64"), ("small", "model.fov")]
)
def test_bad_images_are_refused(files, name, word):
    tmp_path, config = files
    image = tifffile.imread(tmp_path / "image.tif")
    tifffile.imwrite(tmp_path / "image.tif", spoil(image, name))
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros(spoil(image, name).shape, np.uint8))
    refused(config, tmp_path, "image.tif", word)


def test_missing_truncated_and_unreadable_files(files):
    tmp_path, config = files
    path = tmp_path / "image.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(config, tmp_path, "image.tif", "truncated")
    path.write_bytes(b"this is no TIFF")
    refused(config, tmp_path, "image.tif")
    path.unlink()
    refused(config, tmp_path, "image.tif", "no such")


@pytest.mark.parametrize("mode", ["all", "train"])
def test_label_ids_without_a_name_are_refused_before_training(files, mode):
    tmp_path, config = files
    config.data.class_names = ("background",)
    refused(config, tmp_path, "labels.tif", "label id 1 without a name", "data.class_names", mode=mode)


def test_labels_of_another_shape(files):
    tmp_path, config = files
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros((24, 40, 43), np.uint8))
    refused(config, tmp_path, "labels.tif", "(24, 40, 43)", "(24, 40, 44)")


def test_missing_settings_are_named(files):
    tmp_path, config = files
    config.data.train = ()
    refused(config, tmp_path, "data.train")
    config.data.test = ""
    refused(config, tmp_path, "data.test")


def test_each_stage_says_what_it_needs(files):
    tmp_path, config = files
    refused(config, tmp_path, "no checkpoint", mode="segment")
    refused(config, tmp_path, "no checkpoint", mode="evaluate")
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    refused(config, tmp_path, "segment stage", mode="evaluate")
    config.data.test_labels = ""
    refused(config, tmp_path, "segment stage", mode="evaluate")


def test_a_workdir_belongs_to_one_config(files):
    from his4mae_jax.training.run.checkpoints import check_workdir, write_config

    tmp_path, config = files
    write_config(tmp_path / "run", config)
    config.segment.stride, config.evaluate.clusters = 20, (6,)
    check_workdir(tmp_path / "run", config)  # these may change
    config.model.depth = 3
    refused(config, tmp_path, "model.depth", "14", "3", "another workdir")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segment.stride", 7), ("segment.stride", 100), ("objective.mask_ratio", 1.0), ("model.dtype", "float16"),
        ("data.source", "tape"), ("segment.clusters", 1), ("data.axes", "zz"), ("train.batch_size", 0),
        ("codebook.learning", "none"), ("data.crop_min", 81),
    ],
)  # fmt: skip
def test_values_that_cannot_work_name_their_key(tmp_path, key, value):
    config = get_default()
    section, name = key.split(".")
    config[section][name] = value
    refused(config, tmp_path, key)


def test_a_full_disk_is_one_line_and_what_was_there_stays(betaseg, tmp_path):
    """A tmpfs too small for the checkpoints, where mounting is allowed."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", small]).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        (small / "precious.txt").write_text("kept")
        done = run("--config=configs/betaseg.py", f"--workdir={small / 'run'}", f"--config.data.root={betaseg}", *SMALL,
                   "--config.train.steps=20", "--config.model.depth=8")  # fmt: skip
        assert "no space left" in one_line(done).lower()
        assert (small / "precious.txt").read_text() == "kept"
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_settings_that_a_method_refuses_leave_the_workdir_free(betaseg, tmp_path):
    """The corrected command must not meet the config of the refused one."""
    done = run("--config=configs/betaseg.py", f"--workdir={tmp_path}", f"--config.data.root={betaseg}", *SMALL,
               "--config.train.steps=2", "--config.method=sdae", "--config.sdae.folds=3", "--mode=train")  # fmt: skip
    assert done.returncode == 2 and "sdae.folds" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "config.json").exists()


def test_thick_sections_are_trained_on_and_segmented_in_their_plane(tmp_path, capsys):
    """Serial sections, ten times thicker than their pixels: one warning, slices across z alone, nothing made up."""
    image, _ = textured((12, 60, 64), 0)
    tifffile.imwrite(tmp_path / "sections.tif", image)
    config = files_config(tmp_path / "sections.tif")
    config.data.file_voxel_size_nm = (50.0, 5.0, 5.0)
    config.data.voxel_size_nm = 6.0
    config.segment.axes, config.segment.smooth, config.segment.fraction = "zyx", 0.5, 0.05
    main.run(config, tmp_path / "run", "all")
    said = capsys.readouterr().err
    assert "are anisotropic" in said and "slices are taken across z only" in said
    labels = open_volume(outputs(tmp_path / "run") / "labels.ome.zarr", image=False)
    assert labels.shape == (12, 60, 64) and labels.voxel_size_nm == (50.0, 5.0, 5.0)
    with pytest.raises(UserError, match="data.axes is 'yx'"):
        config.data.axes = "yx"
        main.run(config, tmp_path / "other", "train")


def files_config(path):
    config = get_default()
    config.model.fov, config.model.embed_dim, config.model.depth = 20, 8, 1
    config.model.decoder_dim, config.model.decoder_depth, config.model.decoder_num_heads = 8, 1, 2
    config.codebook.size, config.data.crop_min = 6, 10
    config.train.batch_size, config.train.samples_per_epoch, config.train.steps, config.train.log_every = 4, 16, 4, 2
    config.segment.stride, config.report.after_stages = 10, False
    config.data.train, config.data.test = (str(path),), str(path)
    return config
