"""What of a workdir is whole: settings, checkpoints, and what each segmentation wrote."""

import contextlib
from collections.abc import Iterator

import jax
import ml_collections

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data.ome_zarr.checksums import readable
from his4mae_jax.errors import UserError
from his4mae_jax.output import records
from his4mae_jax.output.publish import damage
from his4mae_jax.progress import Log
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run.checkpoints import Checkpoints, read_config
from his4mae_jax.training.step.state import check_finite, finite, state_like
from his4mae_jax.workdir import VOLUMES, checkpoint_steps, log_entry, lost_links, read_record


def check(workdir: PathLike, log: Log) -> None:
    """Reads all that a run wrote, and lists what is damaged. Nothing is changed.

    Args:
      workdir: of the run.
      log: prints a line.

    Raises:
      UserError: something is damaged, each of which was logged, or there is no run.
    """
    workdir = place(workdir)
    folders = [path for path in sorted((workdir / VOLUMES).glob("*")) if path.is_dir() and _is_volume(path)]
    lost = list(lost_links(workdir))
    if not lost and not folders and not (workdir / "config.json").exists() and not checkpoint_steps(workdir):
        raise UserError(f"{workdir}: holds no run; give the workdir of one")
    count = 0
    for line in (*lost, *_training(workdir, log), *(line for folder in folders for line in _volume(folder, log))):
        log(f"damaged: {line}")
        count += 1
    if count:
        raise UserError(f"{workdir}: {count} damaged; what to do is said with each")
    log(f"check: {workdir} is whole: {len(checkpoint_steps(workdir))} checkpoints, {len(folders)} volumes")


def _is_volume(folder: Place) -> bool:
    return (folder / records.SEGMENTATION).exists() or (folder / "volume.json").exists()


def _training(workdir: Place, log: Log) -> Iterator[str]:
    """One line for each damage of the settings, the log and the checkpoints."""
    config = None
    try:
        config = read_config(workdir)
    except UserError as error:
        yield str(error)
    yield from _training_log(workdir / "train.jsonl")
    steps = checkpoint_steps(workdir)
    if config is None:
        if steps:
            yield f"{workdir / 'checkpoints'}: not looked at, as there is no whole config.json"
        return
    try:
        checkpoints = Checkpoints(workdir, ml_collections.ConfigDict(config)) if steps else None
    except UserError as error:
        yield str(error)
        return
    if checkpoints is None:
        return
    with contextlib.closing(checkpoints):
        for step in checkpoints.steps():
            log(f"check: checkpoint of step {step}")
            problem = _checkpoint(checkpoints, step)
            if problem:
                yield problem


def _checkpoint(checkpoints: Checkpoints, step: int) -> str | None:
    """What is damaged of a checkpoint; None where nothing is."""
    try:
        about = checkpoints.about(step)
        like = state_like(ml_collections.ConfigDict(about["config"]))
        state, _ = checkpoints.restore(step, like, meshes.replicated(meshes.make_local_mesh()))
        check_finite(step, jax.device_get(finite(state)))
    except UserError as error:
        return str(error)
    return None


def _training_log(path: Place) -> Iterator[str]:
    if not path.exists():
        return
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        yield f"{path}: cannot be read ({error.strerror}); move it away"
        return
    for number, line in enumerate(lines, 1):
        if log_entry(line) is None:
            yield f"{path}: line {number} is damaged and left out of curves; delete that line"


def _volume(folder: Place, log: Log) -> Iterator[str]:
    """One line for each damage of what was written for a volume."""
    try:
        read_record(folder)
        segmented = records.segmentation(folder)
    except UserError as error:
        yield str(error)
        return
    if segmented:
        for line in damage(folder, log):
            yield f"{line}; run the segment stage again, which makes damaged labels anew"
    for path in sorted([*folder.glob("*.ome.zarr"), *folder.glob(f"{records.JOB_FOLDER}*/*.ome.zarr")]):
        log(f"check: {path}")
        stage = "name" if path.name.startswith("organelles") else "segment"
        remedy = f"; run the {stage} stage again, which makes it anew"
        yield from (line if line.endswith(" again") else line + remedy for line in readable(path))
    for name in ("metrics.json", "outputs.json"):
        try:
            records.read(folder / name)
        except UserError as error:
            yield str(error)
