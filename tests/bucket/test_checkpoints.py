"""Checkpoints and the log of a training in a bucket, without one."""

import json

import pytest

from his4mae_jax.errors import UserError
from his4mae_jax.training.run.bucket_checkpoints import Mirror
from his4mae_jax.training.run.metrics import BucketWriter
from his4mae_jax.workdir import checkpoint_steps

FILES = {"_CHECKPOINT_METADATA": "m", "about/metadata": "a", "rest/d/1": "x" * 100, "student/d/2": "s"}


@pytest.fixture
def mirror(folder):
    """Checkpoints of which the newest two are kept."""
    mirror = Mirror(folder / "checkpoints", lambda steps: set(steps[-2:]))
    yield mirror
    mirror.close()


def _send(mirror, step):
    def write():
        for name, text in FILES.items():
            (mirror.local / str(step) / name).parent.mkdir(parents=True, exist_ok=True)
            (mirror.local / str(step) / name).write_text(text)

    mirror.send(step, write)


def test_checkpoints_are_sent_and_fetched(folder, mirror):
    (folder / "checkpoints" / "1" / "rest").write_text("of a killed run")
    (folder / "checkpoints" / "4" / "old").write_text("of a killed run")
    for step in (2, 4, 6):
        _send(mirror, step)
    mirror.wait()
    assert mirror.steps() == [4, 6] == checkpoint_steps(folder)
    assert (folder / "checkpoints" / "4").keys() == sorted([*FILES, "manifest.json"])
    assert len((folder / "checkpoints").keys()) == 2 * (len(FILES) + 1)
    other = Mirror(folder / "checkpoints", set)
    other.fetch(6, ("about", "student"))
    found = {path.relative_to(other.local / "6").as_posix() for path in other.local.rglob("*") if path.is_file()}
    assert found == {"_CHECKPOINT_METADATA", "about/metadata", "student/d/2"}
    (folder / "checkpoints" / "6" / "rest" / "d" / "1").write_text("cut")
    with pytest.raises(ValueError, match="rest/d/1 is not as long"):
        other.fetch(6, ("rest",))
    (folder / "checkpoints" / "4" / "manifest.json").write_text("[")
    with pytest.raises(UserError, match="manifest.json: damaged; delete .*/4"):
        other.fetch(4, ("rest",))
    other.close()
    assert not other.local.exists()


def test_what_fails_while_it_is_sent_is_raised_later(mirror):
    def fail():
        raise UserError("the disk is full")

    mirror.send(2, fail)
    with pytest.raises(UserError, match="the disk is full"):
        mirror.wait()
    assert mirror.steps() == []


def test_the_log_is_whole_up_to_a_checkpoint(folder):
    writer = BucketWriter(folder, 0)
    for step in (1, 2):
        writer.write(step, {"loss": step / 2})
    assert not (folder / "train.jsonl").exists()  # not each line is an object put anew
    writer.flush()
    writer.write(3, {"loss": 9.0})  # this one a kill would lose
    for _ in range(2):
        writer = BucketWriter(folder, 2)
        writer.write(3, {"loss": 1.5})
        writer.close()
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 2} for step in (1, 2, 3)]
