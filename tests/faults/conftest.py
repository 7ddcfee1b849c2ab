"""Runs that die and disks that fill: a tiny base, and children forked from this process, which may be killed.

A child costs milliseconds, since everything it needs is imported and built already.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import typer.testing
from PIL import Image
from typer.testing import CliRunner

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.cli.main import app
from semblant.data.subject import Subject
from semblant.methods.index import methods
from semblant.world.captions import words

PATIENCE = 180
"""Seconds that a test may take."""
WORD = ("--word", "<maya>", "--class-word", "person", "--face", "none")
QUICK = ("--set", "views=2", "--set", "batch=1", "--precision", "float32", "--no-verdict")


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """What hangs fails, and does not hold up everything after it."""

    def late(number: int, frame: Any) -> None:
        raise AssertionError(f"it hangs: nothing came within {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A quiet command leaves the library's log quiet: here every test hears it again."""
    log = logging.getLogger("semblant")
    log.handlers = []
    log.setLevel(logging.NOTSET)
    yield
    log.handlers = []
    log.setLevel(logging.NOTSET)


@dataclass
class Ended:
    """How a child ended: its exit code, or the signal that killed it as a negative number, and what it said."""

    code: int
    said: str
    seconds: float


@dataclass
class Child:
    """A forked child at work."""

    pid: int
    heard: Path
    began: float
    gone: bool = False

    def wait(self, seconds: float = 60.0) -> Ended:
        """Wait for its end; the test fails when it does not come."""
        limit = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.gone = True
                return Ended(os.waitstatus_to_exitcode(status), self.heard.read_text(), time.monotonic() - self.began)
            if time.monotonic() > limit:
                pytest.fail(f"a child did not end within {seconds} s; it said: {self.heard.read_text()}")
            time.sleep(0.002)

    def until(self, there: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something is there; the test fails when the child ends before."""
        limit = time.monotonic() + seconds
        while not there():
            self.gone = os.waitpid(self.pid, os.WNOHANG) != (0, 0)
            assert not self.gone, f"the child ended: {self.heard.read_text()}"
            assert time.monotonic() < limit, f"it never came; the child said: {self.heard.read_text()}"
            time.sleep(0.002)

    def signal(self, number: int) -> None:
        """Send a signal; from now its seconds count."""
        self.began = time.monotonic()
        os.kill(self.pid, number)


@pytest.fixture
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Callable[[], Any]], Child]]:
    """`fork(work)` runs a function in a child. It exits with 0, what SystemExit says, or 99 after a traceback."""
    folder, children = tmp_path_factory.mktemp("children"), []

    def start(work: Callable[[], Any]) -> Child:
        heard = folder / f"{len(children)}.txt"
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                # As in a process of its own: no one listens in, and signals do what they do by default.
                sys.stdout = sys.stderr = heard.open("w", buffering=1)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                work()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 99
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(Child(pid, heard, time.monotonic()))
        return children[-1]

    yield start
    for child in children:
        if not child.gone:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)


@pytest.fixture(scope="session")
def base() -> Base:
    """The smallest base that has every kind of layer, which knows the world's words; methods are imported."""
    methods()
    return miniature(channels=(8,), vocabulary=words())


@pytest.fixture(scope="session")
def subject() -> Subject:
    """One picture of noise."""
    return Subject((picture(0),), "<maya>", "person", (None,), (None,), (None,), ("0" * 64,))


@pytest.fixture(scope="session")
def noise() -> Callable[[int], Image.Image]:
    """`noise(seed)` is a picture that no other resembles."""
    return picture


def picture(seed: int, size: int = 32) -> Image.Image:
    """Pixels at random."""
    return Image.fromarray((np.random.default_rng(seed).random((size, size, 3)) * 255).astype("uint8"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture file, in the folder that is the current one."""
    path = tmp_path / "photo.png"
    picture(0).save(path)
    return path


@pytest.fixture(scope="session")
def warm(base: Base, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One command has run, so that children find imported what it imports."""
    folder = tmp_path_factory.mktemp("warm")
    picture(0).save(folder / "photo.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "load", lambda *given, **named: base)
        for line in (
            ["fit", "textual-inversion", folder / "photo.png", *WORD, *QUICK, "--steps", 1, "--out", folder / "maya"],
            ["sample", "a person", "--steps", 1, "--out", folder / "images"],
        ):
            assert CliRunner().invoke(app, [str(word) for word in line]).exit_code == 0


@pytest.fixture(scope="session")
def built() -> Any:
    """The application as the command that its lines run."""
    return typer.main.get_command(app)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Base, built: Any, warm: None) -> Callable[..., Any]:
    """`command(*arguments)` runs a command line in an empty folder, on the tiny base whatever `--base` says.

    It raises SystemExit with the exit code: for use in a child.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verbs, "load", lambda *given, **named: base)
    # Built once, not for every line.
    monkeypatch.setattr(typer.testing, "_get_command", lambda app: built)
    return lambda *arguments: app([str(argument) for argument in arguments], prog_name="semblant")


@pytest.fixture
def fit(command: Callable[..., Any], photo: Path) -> Callable[..., Any]:
    """`fit(*more)` fits a word by the command line; `--steps` has to be among what is given."""
    return lambda *more: command("fit", "textual-inversion", photo, *WORD, *QUICK, *more)
