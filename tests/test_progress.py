"""Progress: silent where a step is quick, lines in a file, one line that is replaced on a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from his4mae_jax import progress as module
from his4mae_jax.progress import duration, progress, rate


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def in_a_file(monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: False, raising=False)


def test_a_long_step_prints_a_line_now_and_then(clock, in_a_file):
    lines = []
    bar = module.Progress("segment", 10, "tiles", lines.append)
    for second in range(1, 41):
        clock.now = float(second)
        if second % 5 == 0:
            bar.advance(1)
        bar.show()
        assert lines or second < 5  # a step that ends before is silent
    assert len(lines) == 4  # at 5, 15, 25 and 35 s
    assert lines[0] == "segment: 10 % (1 of 10 tiles) after 5 s, 45 s left"
    assert lines[-1].startswith("segment: 70 % (7 of 10 tiles) after 35 s")


def test_a_step_is_watched_while_it_works(monkeypatch, in_a_file):
    monkeypatch.setattr(module, "QUIET", 0.0)
    lines = []
    with progress("compiling", log=lines.append) as bar:
        end = module.time.monotonic() + 20
        while not lines and module.time.monotonic() < end:
            bar.note("the paper's model")
    assert lines == [f"compiling: after {lines[0].split()[2]} s  the paper's model"]


def test_what_precedes_the_first_unit_does_not_count_for_the_rest(clock):
    bar = module.Progress("segment", 11, "tiles", print)
    clock.now = 100.0  # compilation
    bar.advance(1)
    clock.now = 110.0
    bar.advance(5)
    assert bar.remaining() == pytest.approx(10.0)


def test_on_a_terminal_one_line_is_replaced():
    code = (
        "import time; from his4mae_jax import progress as p; p.QUIET = 0.0\n"
        "with p.progress('fit', 4, unit='tiles', log=lambda s: print('LINE', s)) as bar:\n"
        "    bar.advance(2); time.sleep(2.2); p.say('a message'); time.sleep(0.1)\n"
    )
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.run([sys.executable, "-c", code], stderr=writer, stdout=subprocess.PIPE, timeout=60)
    os.close(writer)
    shown = os.read(reader, 65536).decode()
    os.close(reader)
    assert done.returncode == 0 and done.stdout == b""
    assert "fit: 50 % (2 of 4 tiles)" in shown and "\r" in shown and "a message" in shown


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (89, "89 s"),
        (192, "3.2 min"),
        (9000, "2.5 h"),
        (86400, "24.0 h"),
        (270000, "3.1 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "value, text", [(4900.4, "4,900 images/s"), (12.34, "12.3 images/s"), (1, "1 images/s"), (0.0432, "0.043 images/s")]
)
def test_rates_below_one_keep_their_digits(value, text):
    assert rate(value, "images") == text


def test_what_is_said_of_many_volumes_is_one_line(capfd):
    lines = []
    with module.of_many(lines.append) as log:
        for i in range(200):
            module.say_once(f"https://host/v{i}.zarr: its int8 grey levels are read as int16, exactly")
            log(f"warning: v{i}.tif: voxels of {i + 1} x 4 x 4 nm are anisotropic")
        module.say_once("v7.n5: left out of the window: z 7")
    assert lines == [
        "https://host/v0.zarr: its int8 grey levels are read as int16, exactly (and so of 199 other volumes)",
        "warning: v0.tif: voxels of 1 x 4 x 4 nm are anisotropic (and so of 199 other volumes)",
        "v7.n5: left out of the window: z 7",
    ]
    assert not capfd.readouterr().err
    module.say_once("v8.n5: left out of the window: z 8")
    assert capfd.readouterr().err == "v8.n5: left out of the window: z 8\n"
