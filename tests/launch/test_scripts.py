"""The launchers as far as a machine without clusters goes: shellcheck, dry runs, and jobs played by stand-ins."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
GKE = ("--nodes=4", "--chips=8", "--image=gcr.io/lab/his4mae:1", "--claim=data")
# Options before CONFIG, and a WORKDIR, with which each launcher has nothing to complain about.
GOOD = {
    "local.sh": (("--device=cpu",), "runs/x"),
    "slurm.sh": (("--nodes=2", "--gpus=4"), "runs/x"),
    "tpu_pod.sh": (("--name=pod", "--zone=us-east5-a"), "/mnt/shared/x"),
    "gke.sh": (("--accelerator=gpu", "--type=nvidia-h100-80gb", *GKE), "/shared/x"),
}


@pytest.fixture
def programs(tmp_path):
    """A folder of stand-ins for the clusters' programs, which note how they are called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol", "gcloud", "kubectl"):
        path = folder / name
        status = f"${{{name.upper()}_STATUS:-0}}"
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name}" "$@" >>"{tmp_path}/calls"\nexit {status}\n')
        path.chmod(0o755)
    return folder


def launch(name, *args, programs=None, script=None, **env):
    own = {**os.environ, "PYTHON": sys.executable, **env}
    if programs:
        own["PATH"] = f"{programs}{os.pathsep}{own['PATH']}"
    return subprocess.run(["bash", script or LAUNCH / name, *args], cwd=ROOT, env=own, capture_output=True, text=True)


def calls(programs):
    path = programs.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    found = subprocess.run(
        [shellcheck if shellcheck.exists() else "shellcheck", "--external-sources", "--source-path=.", *SCRIPTS],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_a_script_stops_at_the_first_error_and_can_be_started(script):
    if script.name == "lib.sh":
        return  # sourced by the others
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", GOOD)
def test_a_dry_run_prints_the_program_with_its_flags_and_runs_nothing(name, programs, tmp_path):
    options, workdir = GOOD[name]
    before = sorted(p.name for p in ROOT.iterdir()), (ROOT / "runs" / "x").exists()
    args = ("--dry-run", *options, "configs/demo.py", workdir, "--config.segment.axes=zyx")
    done = launch(name, *args, programs=programs)
    assert done.returncode == 0, done.stderr
    for word in ("configs/demo.py", workdir, "--config.segment.axes=zyx"):
        assert word in done.stdout
    assert calls(programs) == []
    assert (sorted(p.name for p in ROOT.iterdir()), (ROOT / "runs" / "x").exists()) == before


@pytest.mark.parametrize("name", [name for name in GOOD if name != "gke.sh"])
@pytest.mark.parametrize("config", ["demo", "compare/table3", "openorganelle:2", "configs/openorganelle.py:2"])
def test_a_config_may_be_given_by_name_and_have_an_argument(name, config, programs):
    options, workdir = GOOD[name]
    done = launch(name, "--dry-run", *options, config, workdir, programs=programs)
    assert done.returncode == 0 and config in done.stdout, done.stderr


@pytest.mark.parametrize("name", GOOD)
def test_help_is_the_usage(name):
    done = launch(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: launch/{name} ") and done.stderr == ""


@pytest.mark.parametrize("name", GOOD)
def test_what_is_missing_is_one_line_and_status_2(name, programs):
    options, workdir = GOOD[name]
    for args in ((), (*options, "configs/demo.py"), (*options, "configs/nowhere.py", workdir), ("--fly", *options)):
        if name == "gke.sh" and "configs/nowhere.py" in args:
            continue  # it lies in the image
        done = launch(name, *args, programs=programs)
        assert done.returncode == 2 and done.stderr.startswith("error: "), (args, done)
    assert calls(programs) == []


@pytest.mark.parametrize("name", ["tpu_pod.sh", "local.sh"])
def test_a_workdir_in_a_bucket_is_handed_on(programs, name):
    done = launch(name, "--dry-run", *GOOD[name][0], "demo", "gs://lab/runs/x", programs=programs)
    assert done.returncode == 0 and "--workdir=gs://lab/runs/x" in done.stdout.replace("\\", ""), done.stderr


def test_slurm_has_its_log_on_a_disk(programs):
    done = launch("slurm.sh", "--dry-run", "demo", "s3://lab/runs/x", programs=programs)
    assert done.returncode == 2 and "a folder that all nodes share" in done.stderr and not calls(programs)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("slurm.sh", ("--nodes=two", "configs/demo.py", "runs/x")),
        ("tpu_pod.sh", ("--name=pod", "configs/demo.py", "/mnt/x")),
        ("tpu_pod.sh", ("--name=pod", "--zone=z", "configs/demo.py", "runs/x")),
        ("gke.sh", ("--accelerator=abacus", "--type=a", *GKE, "configs/demo.py", "/shared/x")),
        ("gke.sh", ("--accelerator=tpu", "--type=a", *GKE, "configs/demo.py", "/shared/x")),
        ("gke.sh", ("--accelerator=gpu", "--type=a b", *GKE, "configs/demo.py", "/shared/x")),
        ("gke.sh", ("--accelerator=gpu", "--type=a", *GKE, "configs/demo.py", "runs/x")),
    ],
)
def test_options_that_cannot_work_are_refused(name, args, programs):
    done = launch(name, *args, programs=programs)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and calls(programs) == []


def test_a_missing_program_is_named(tmp_path):
    """A PATH that has the system's tools, and no sbatch."""
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = launch("slurm.sh", "configs/demo.py", "runs/x", PATH=str(tmp_path))
    assert done.returncode == 2 and "sbatch" in done.stderr


def test_slurm_submits_one_process_a_node_that_is_queued_again(programs, tmp_path):
    done = launch("slurm.sh", "--nodes=3", "--gpus=4", "--time=2:00:00", "configs/demo.py", tmp_path / "run",
                  "--mode=train", programs=programs)  # fmt: skip
    assert done.returncode == 0, done.stderr
    called = calls(programs)
    assert called[0] == "sbatch" and called[-4:] == [
        "launch/slurm_job.sh", "configs/demo.py", str(tmp_path / "run"), "--mode=train",
    ]  # fmt: skip
    assert {"--nodes=3", "--ntasks-per-node=1", "--gpus-per-node=4", "--time=2:00:00", "--requeue"} <= set(called)
    assert "--signal=USR1@120" in called and (tmp_path / "run").is_dir()


def test_slurm_gives_a_segmentation_a_task_for_each_gpu(programs, tmp_path):
    words = ("--nodes=3", "--gpus=4", "configs/demo.py", tmp_path / "run", "--mode=segment")
    assert launch("slurm.sh", *words, programs=programs).returncode == 0
    assert {"--ntasks-per-node=4", "--gpus-per-node=4", "--signal=B:USR1@120"} <= set(calls(programs))
    assert launch("slurm.sh", *words, "--config.segment.engine=local", programs=programs).returncode == 0
    assert {"--ntasks-per-node=1", "--signal=USR1@120"} <= set(calls(programs))


@pytest.mark.parametrize(
    ("visible", "number", "gpu"),
    [("", "2", "2"), ("4,5,6,7", "2", "6"), ("GPU-a", "2", "GPU-a"), ("0,1", "", "0,1"), ("", "", "")],
)
def test_a_worker_takes_a_gpu_of_its_own(tmp_path, visible, number, gpu):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES|$JAX_PLATFORMS|$*"\n')
    python.chmod(0o755)
    env = {"CUDA_VISIBLE_DEVICES": visible, "SLURM_LOCALID": number, "JAX_PLATFORMS": ""}
    done = launch("dask_worker.sh", "tcp://host:8786", PYTHON=str(python), **env)
    assert done.stdout.startswith(f"{gpu}|cuda,cpu|-m dask worker tcp://host:8786 --nworkers=1 --nthreads=2"), done


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (2, False)])
def test_a_slurm_job_is_requeued_on_status_75_alone(programs, status, requeued):
    done = launch("slurm_job.sh", "configs/demo.py", "runs/x", "--mode=train", programs=programs, SLURM_JOB_ID="17",
                  SRUN_STATUS=str(status))  # fmt: skip
    called = calls(programs)
    assert done.returncode == status and called[0] == "srun" and "--config.train.require_accelerator=True" in called
    assert (called[-3:] == ["scontrol", "requeue", "17"]) == requeued and ("scontrol" in called) == requeued


def sent_to_hosts(done, programs, tmp_path, script):
    """The command that `tpu_pod.sh` sent to the hosts, with a script in place of the program's Python there."""
    assert done.returncode == 0, done.stderr
    python = tmp_path / "his4mae_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>../args\n{script}')
    python.chmod(0o755)
    return next(c for c in calls(programs) if "nohup" in c).removeprefix("--command=")


def test_a_tpu_pod_gets_the_commit_and_starts_again_on_status_75(programs, tmp_path):
    """What is sent to the hosts is run here, with stand-ins for the program."""
    done = launch("tpu_pod.sh", *GOOD["tpu_pod.sh"][0], "configs/demo.py", "/mnt/x", "--config.data.train=('a b',)",
                  programs=programs)  # fmt: skip
    # Stopped by a signal at first, done the second time.
    twice = "[ -e ../again ] && exit 0\ntouch ../again\nexit 75\n"
    command = sent_to_hosts(done, programs, tmp_path, twice)
    (tmp_path / "bin" / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "sleep").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # In the foreground, to see its end.
    subprocess.run(["bash", "-c", command.removesuffix("&")], cwd=tmp_path, env={"PATH": path}, check=True)
    args = (tmp_path / "args").read_text().splitlines()
    assert args.count("--workdir=/mnt/x") == 2 and args.count("--config.data.train=('a b',)") == 2


# Workdirs and flags with quotes, blanks and what shells expand arrive as they are, and nothing of them is run.
HOSTILE = "a b'c\"d $(touch pwned) `touch pwned`; touch pwned & | * \\ ${HOME} %j -é"
HOSTILE_FLAG = f"--config.data.test={HOSTILE}"


@pytest.fixture
def nothing_run():
    """Fails where a command in a name was run."""
    yield
    found = ROOT / "pwned"
    there = found.exists()
    found.unlink(missing_ok=True)
    assert not there


def test_local_prints_what_can_be_typed(nothing_run):
    done = launch("local.sh", "--dry-run", "--device=cpu", "configs/demo.py", HOSTILE, HOSTILE_FLAG)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "his4mae_jax.main" in line).removeprefix("+")
    typed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True).stdout
    assert typed.split("\0")[-3:-1] == [f"--workdir={HOSTILE}", HOSTILE_FLAG]


def test_slurm_gets_the_words(programs, tmp_path, nothing_run):
    workdir = tmp_path / HOSTILE
    done = launch("slurm.sh", "configs/demo.py", workdir, HOSTILE_FLAG, programs=programs)
    assert done.returncode == 0, done.stderr
    called = calls(programs)
    assert called[-2:] == [str(workdir), HOSTILE_FLAG] and workdir.is_dir()
    assert f"--output={str(workdir).replace('%', '%%')}/slurm-%j.log" in called  # % is SLURM's own


def test_a_workdir_that_looks_like_an_option(programs, tmp_path, nothing_run):
    done = launch("slurm.sh", "configs/demo.py", "--help=x", programs=programs)
    try:
        assert done.returncode == 0 and (ROOT / "--help=x").is_dir(), done.stderr
    finally:
        if (ROOT / "--help=x").is_dir():
            os.rmdir(ROOT / "--help=x")


def test_a_slurm_job_gets_the_words(programs, nothing_run):
    done = launch("slurm_job.sh", "configs/demo.py", HOSTILE, HOSTILE_FLAG, programs=programs, SLURM_JOB_ID="1")
    assert done.returncode == 0 and f"--workdir={HOSTILE}" in calls(programs) and calls(programs)[-1] == HOSTILE_FLAG


def test_hosts_of_a_pod_get_the_words(programs, tmp_path, nothing_run):
    done = launch(
        "tpu_pod.sh", *GOOD["tpu_pod.sh"][0], "configs/demo.py", f"/mnt/{HOSTILE}", HOSTILE_FLAG, programs=programs
    )
    command = sent_to_hosts(done, programs, tmp_path, "")
    subprocess.run(["bash", "-c", command.removesuffix("&")], cwd=tmp_path, check=True)
    args = (tmp_path / "args").read_text().splitlines()
    assert f"--workdir=/mnt/{HOSTILE}" in args and args[-1] == HOSTILE_FLAG
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", [HOSTILE, "two\nlines: [x]\n"])
def test_a_manifest_holds_the_words(name, nothing_run):
    flag = f"--config.data.test={name}"
    done = launch("gke.sh", "--dry-run", *GOOD["gke.sh"][0], "configs/demo.py", f"/shared/{name}", flag)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    args = [word.replace("$$", "$") for word in found["containers"][0]["args"]]
    assert args[1] == f"--workdir=/shared/{name}" and args[-1] == flag
