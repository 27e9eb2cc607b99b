"""An image that is written to while it is segmented, or between a run that was killed and the next."""

import os

import numpy as np
import pytest
import tifffile

from his4mae_jax.output.engine.markers import Markers


@pytest.fixture
def image(runs):
    """The image of the runs, put right again after the test."""
    path = runs.folder / "cell.tif"
    before, times = path.read_bytes(), path.stat()
    yield path
    path.write_bytes(before)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def change(path):
    """Other grey levels in one corner, which change neither the shape nor the contrast that is measured."""
    array = tifffile.imread(path)
    array[:4, :4, :4] = np.roll(array[:4, :4, :4], 1)
    tifffile.imwrite(path, array)
    os.utime(path)


def test_labels_of_two_images_are_not_published(runs, image, monkeypatch):
    workdir, mark = runs.copy("half"), Markers.mark

    def write_to_it(markers, written):
        mark(markers, written)
        change(image)

    monkeypatch.setattr(Markers, "mark", write_to_it)
    error = runs.run(workdir, "segment")
    assert f"{image}: its files changed while it was segmented" in error
    assert not runs.labels(workdir)
    monkeypatch.undo()
    assert runs.run(workdir, "segment") is None and runs.labels(workdir)


def test_tiles_of_another_image_are_done_again(runs, image, monkeypatch):
    workdir, marked, mark = runs.copy("half"), [], Markers.mark
    change(image)
    monkeypatch.setattr(
        Markers, "mark", lambda markers, written: (marked.append(written.number), mark(markers, written))
    )
    assert runs.run(workdir, "segment") is None
    assert {0, 1} <= set(marked)  # those that the killed run had done


def test_a_copied_workdir_keeps_its_scores(runs):
    """Whatever the times of its files."""
    workdir = runs.copy("whole")
    folder = workdir / "volumes" / "cell"
    os.utime(folder / "metrics.json", ns=(1, 1))
    assert runs.run(workdir, "report") is None
    page = (workdir / "report" / "index.html").read_text()
    assert "other labels" not in page
