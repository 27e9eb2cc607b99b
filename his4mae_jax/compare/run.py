"""`--mode=compare`: several methods or ablations on one data set, with several seeds, as one table (Table 3).

    python -m his4mae_jax.main --config=configs/compare/table3.py --workdir=runs/table3 --mode=compare

Each row of `compare.rows` is a name and what differs from the config. For each row and seed there
is one run, `workdir/<row>/seed<k>/`, a process of its own: its peak memory is its own, and a crash
takes no other run with it. Its folder holds row.json (the settings of the run), log.txt (what it
said), run.json (seconds and peak memory) and all that a run leaves. The same command again does
what is not there yet: a run that was stopped goes on from its last checkpoint, one that is scored
is left alone, and one whose settings of `segment.*` or `evaluate.*` changed is segmented and scored
again. A folder with another training is refused before anything starts.

Phantom cells are drawn once, in `workdir/data/` and with the config's own seed: all rows and seeds
train and test on the same cells, and seeds change weights, batches and cluster fits alone. The
classical baselines are scored once for each seed, in the first row that clusters.

Rows that differ in `segment.*` and `evaluate.*` alone share one training: the folder of the later
one gets hard links to the checkpoints of the earlier (copies where the disk has no links), finds
its training done, and segments. Checkpoints are written once and never changed, so that neither
folder minds what becomes of the other.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import time

import ml_collections

from his4mae_jax import config as configs
from his4mae_jax.compare import process, tables
from his4mae_jax.compare.rows import COPIES, check_folders, plan, read_json, rows_of
from his4mae_jax.errors import UserError
from his4mae_jax.files import slug, write_text, writing


def trained_steps(folder):
    """Steps of the checkpoints in a run's folder."""
    return {int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()}


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def share_training(run, others):
    """Give `run` the checkpoints of another run of the same training; returns that run, or None.

    Only a whole training is shared, and only with a folder that has not begun its own.
    """
    steps = configs.total_steps(ml_collections.ConfigDict(run.settings))
    if trained_steps(run.folder):
        return None
    for other in others:
        if steps in trained_steps(other.folder) and other.training == run.training:
            part, final = run.folder / COPIES, run.folder / "checkpoints"
            if final.is_dir() and any(final.iterdir()):
                return None  # saves of its own that were killed, or files of the user
            facts = read_json(run.folder / "run.json") or {}
            if facts.get("copies") == part.name:  # of a process that was killed while it copied
                shutil.rmtree(part, ignore_errors=True)
            # Before it is made: one that is cut short is known to be ours.
            write_text(run.folder / "run.json", json.dumps({**facts, "copies": part.name}, indent=2) + "\n")
            unfinished = shutil.ignore_patterns("*tmp*")  # saves that were killed
            shutil.copytree(other.folder / "checkpoints", part, copy_function=_link, ignore=unfinished)
            if (other.folder / "train.jsonl").exists():
                shutil.copy2(other.folder / "train.jsonl", run.folder / "train.jsonl")
            os.replace(part, final)
            return other
    return None


def record(folder, usage, device, donor):
    """Write run.json: seconds are the sum and the peak is the largest over the run's processes so far."""
    before = read_json(folder / "run.json") or {}
    facts = {
        "seconds": before.get("seconds", 0.0) + usage.seconds,
        "peak_rss_mb": max(before.get("peak_rss_mb", 0.0), usage.peak_rss_mb),
        "cpus": process.cpus(),
        "device": device,
        "trained_in": slug(donor.name) if donor else before.get("trained_in"),
    }
    write_text(folder / "run.json", json.dumps(facts, indent=2) + "\n")


def perform(run, others, device):
    """Run one process; returns None, or the line that says why it failed."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "metrics.json").unlink(missing_ok=True)  # of other segmentation settings
    write_text(run.folder / "row.json", json.dumps(run.settings, indent=2) + "\n")
    donor = share_training(run, others)
    log_path = run.folder / "log.txt"
    offset = log_path.stat().st_size if log_path.exists() else 0
    usage = process.execute(process.command(run), log_path)
    record(run.folder, usage, device, donor)
    if usage.interrupted:
        raise KeyboardInterrupt
    if usage.status < 0:
        said = process.last_line(log_path, offset)
        return f"ended by {signal.Signals(-usage.status).name}, as a lack of memory may do; it last said: {said}"
    if usage.status:
        return process.last_line(log_path, offset)
    if read_json(run.folder / "metrics.json") is None:
        return "nothing to score it with: the data have no labels"
    return None


def run(config, workdir, log):
    """Run what is missing, write and print the tables; returns the rows of `tables.collect`.

    Raises:
      UserError: for bad rows, or a folder with another run, before anything starts; after the last
        run if any of them failed, with the tables written all the same.
    """
    workdir, seeds = pathlib.Path(workdir), config.compare.seeds
    rows, runs = rows_of(config), plan(config, workdir)
    check_folders(runs)
    waiting = [run for run in runs if not run.done]
    log(f"compare: {len(rows)} rows, seeds {', '.join(map(str, seeds))}: {len(runs)} runs, {len(waiting)} to do")
    device = process.device_name() if waiting else None
    failed, began = [], time.perf_counter()
    with writing(workdir), process.sigterm_interrupts():
        workdir.mkdir(parents=True, exist_ok=True)
        for count, run in enumerate(waiting, 1):
            wrong = perform(run, [other for other in runs if other is not run], device)
            if wrong:
                failed.append(f"{run.name}, seed {run.seed} ({wrong})")
                said = f"FAILED: {wrong} (see {run.folder / 'log.txt'})"
            else:
                dsc = read_json(run.folder / "metrics.json")["dsc"]["one_to_one"]["mean"]
                said = "no class to score" if dsc is None else f"mean DSC {dsc:.3f}"
            minutes = (time.perf_counter() - began) / 60
            log(f"compare: {count}/{len(waiting)} {run.name}, seed {run.seed}: {said}; {minutes:.1f} min so far")
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
