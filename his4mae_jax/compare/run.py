"""`--mode=compare`: several methods or ablations on one data set, with several seeds, as one table (Table 3).

    python -m his4mae_jax.main --config=configs/compare/table3.py --workdir=runs/table3 --mode=compare

Each row of `compare.rows` is a name and what differs from the config. For each row and seed there
is one run, `workdir/<row>/seed<k>/`, in a process of its own: its peak memory can be measured, and
a crash ends no other run. Its folder holds row.json (the settings of the run), log.txt (its
output), run.json (seconds and peak memory) and the outputs of any run. The same command again does
the runs that are missing: one that was stopped resumes from its last checkpoint, one that is scored
is skipped, and one whose settings of `segment.*` or `evaluate.*` changed is segmented and scored
again. A folder with another training is an error before anything starts.

Phantom cells are generated once, in `workdir/data/` and with the config's own seed: all rows and seeds
train and test on the same cells, and seeds change only weights, batches and cluster fits. The
classical baselines are scored once for each seed, in the first row that clusters.

Rows that differ only in `segment.*` and `evaluate.*` share one training: the folder of the later
one gets hard links to the checkpoints of the earlier (copies where the file system has no links),
skips training, and segments. Checkpoints are written once and never changed, so either folder can
be deleted without harm to the other.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from his4mae_jax import config as configs
from his4mae_jax.compare import process, tables
from his4mae_jax.compare.rows import COPIES, Run, check_folders, named_rows, plan, read_json
from his4mae_jax.errors import UserError
from his4mae_jax.files import slug, write_text, writing
from his4mae_jax.workdir import checkpoint_steps


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def share_training(run: Run, others: Iterable[Run]) -> Run | None:
    """Gives `run` the checkpoints of another run with the same training.

    Only a finished training is shared, and only with a folder that has not begun its own.

    Returns:
      The run whose checkpoints they are, or None where there is none.
    """
    steps = configs.total_steps(ml_collections.ConfigDict(run.settings))
    if checkpoint_steps(run.folder):
        return None
    for other in others:
        if steps in checkpoint_steps(other.folder) and other.training == run.training:
            part, final = run.folder / COPIES, run.folder / "checkpoints"
            if final.is_dir() and any(final.iterdir()):
                return None  # interrupted saves of its own, or files of the user
            facts = read_json(run.folder / "run.json") or {}
            if facts.get("copies") == part.name:  # left by a process that was killed while it copied
                shutil.rmtree(part, ignore_errors=True)
            # Recorded before the folder is made, so that an incomplete copy is known to be ours.
            write_text(run.folder / "run.json", json.dumps({**facts, "copies": part.name}, indent=2) + "\n")
            unfinished = shutil.ignore_patterns("*tmp*")  # interrupted saves
            shutil.copytree(other.folder / "checkpoints", part, copy_function=_link, ignore=unfinished)
            if (other.folder / "train.jsonl").exists():
                shutil.copy2(other.folder / "train.jsonl", run.folder / "train.jsonl")
            os.replace(part, final)
            return other
    return None


def record(folder: pathlib.Path, usage: process.Usage, device: str | None, donor: Run | None) -> None:
    """Writes run.json: seconds are the sum and the peak is the largest over the run's processes so far."""
    before = read_json(folder / "run.json") or {}
    facts = {
        "seconds": before.get("seconds", 0.0) + usage.seconds,
        "peak_rss_mb": max(before.get("peak_rss_mb", 0.0), usage.peak_rss_mb),
        "cpus": process.cpus(),
        "device": device,
        "trained_in": slug(donor.name) if donor else before.get("trained_in"),
    }
    write_text(folder / "run.json", json.dumps(facts, indent=2) + "\n")


def perform(run: Run, others: Iterable[Run], device: str | None) -> str | None:
    """Executes one run in a process of its own.

    Returns:
      None, or the reason why it failed as one line.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.outputs / "metrics.json").unlink(missing_ok=True)  # scores of other segmentation settings
    write_text(run.folder / "row.json", json.dumps(run.settings, indent=2) + "\n")
    donor = None if run.settings["segment"].get("encoder_file") else share_training(run, others)
    log_path = run.folder / "log.txt"
    offset = log_path.stat().st_size if log_path.exists() else 0
    usage = process.execute(process.command(run), log_path)
    record(run.folder, usage, device, donor)
    if usage.interrupted:
        raise KeyboardInterrupt
    if usage.status < 0:
        name, line = signal.Signals(-usage.status).name, process.last_line(log_path, offset)
        return f"ended by {name}, possibly for lack of memory; its last output: {line}"
    if usage.status:
        return process.last_line(log_path, offset)
    if read_json(run.outputs / "metrics.json") is None:
        return "no ground truth to score it against: the data have no labels"
    return None


def run(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Executes the runs that are missing, then writes and prints the tables.

    Args:
      config: the comparison's config; `config.compare` holds rows and seeds.
      workdir: folder of the comparison.
      log: prints one line.

    Returns:
      The rows of `tables.collect`.

    Raises:
      UserError: for invalid rows, or a folder with another run, before anything starts; after the
        last run if any of them failed (the tables are written in that case too).
    """
    workdir, seeds = pathlib.Path(workdir), config.compare.seeds
    rows, runs = named_rows(config), plan(config, workdir)
    check_folders(runs)
    waiting = [run for run in runs if not run.done]
    log(f"compare: {len(rows)} rows, seeds {', '.join(map(str, seeds))}: {len(runs)} runs, {len(waiting)} to do")
    device = process.device_name() if waiting else None
    failed, began = [], time.perf_counter()
    with writing(workdir), process.sigterm_interrupts():
        workdir.mkdir(parents=True, exist_ok=True)
        for count, run in enumerate(waiting, 1):
            failure = perform(run, [other for other in runs if other is not run], device)
            if failure:
                failed.append(f"{run.name}, seed {run.seed} ({failure})")
                outcome = f"FAILED: {failure} (see {run.folder / 'log.txt'})"
            else:
                dsc = read_json(run.outputs / "metrics.json")["dsc"]["one_to_one"]["mean"]
                outcome = "no class to score" if dsc is None else f"mean DSC {dsc:.3f}"
            minutes = (time.perf_counter() - began) / 60
            log(f"compare: {count}/{len(waiting)} {run.name}, seed {run.seed}: {outcome}; {minutes:.1f} min so far")
            tables.write(workdir, tables.collect(workdir, rows, seeds))
        collected = tables.collect(workdir, rows, seeds)
        text = tables.write(workdir, collected)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
    log(f"compare: {', '.join(str(workdir / file) for file in tables.FILES)}")
    if failed:
        raise UserError(
            f"compare: {len(failed)} of {len(waiting)} runs failed: {'; '.join(failed)}; the same command tries them "
            "again"
        )
    return collected
