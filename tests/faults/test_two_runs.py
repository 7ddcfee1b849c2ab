"""Two runs on one output: the second hears who is at work; a dead one's place is taken over."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import semblant as sb
from semblant import verbs
from semblant.backbones.base import Base
from semblant.cli import fitting
from semblant.cli.main import app
from semblant.cli.sampling import write
from semblant.data.subject import Subject
from semblant.errors import FileProblem
from semblant.training import lock
from semblant.training.concepts import load
from semblant.training.lock import held
from semblant.training.optimise import Progress

Run = Callable[..., Any]
HOST = socket.gethostname()
STEPS = ("--steps", 6)


def waiting(reached: Path) -> Callable[..., None]:
    """A teller that says when two steps are done, and then waits for ever."""
    told = fitting.Teller.__call__

    def tell(self: Any, progress: Progress) -> None:
        told(self, progress)
        if progress.step == 2:
            reached.touch()
            time.sleep(300)

    return tell


def test_the_second_run_hears_who_is_at_work_and_takes_over_when_that_is_killed(
    fit: Run, fork: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert fork(lambda: fit(*STEPS, "--out", "whole")).wait().code == 0
    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", waiting(tmp_path / "reached"))
        first = fork(lambda: fit(*STEPS))
        first.until((tmp_path / "reached").exists)
    for more in ((), ("--resume",), ("--force",), ("--resume", "--force")):
        second = fork(lambda more=more: fit(*STEPS, *more)).wait()
        assert second.code == 3, second.said
        assert f"maya.safetensors is being made by another run, process {first.pid} on {HOST}, since 20" in second.said
        assert "wait for it, stop it, or give another --out" in second.said and "Traceback" not in second.said
    assert json.loads(Path(".maya.semblant-lock").read_text())["pid"] == first.pid
    # Another output beside it is free.
    assert fork(lambda: fit(*STEPS, "--out", "other")).wait().code == 0
    first.signal(signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL and Path(".maya.semblant-lock").exists()
    third = fork(lambda: fit(*STEPS, "--resume")).wait()
    assert third.code == 0, third.said
    assert load("maya.safetensors").tensors["rows"].equal(load("whole.safetensors").tensors["rows"])
    assert not Path(".maya.semblant-lock").exists()


def test_from_python_too(base: Base, subject: Subject, fork: Run, tmp_path: Path) -> None:
    given: dict[str, Any] = {"checkpoint": tmp_path / "run", "steps": 2, "views": 2, "batch": 1}

    def work() -> None:
        with held(tmp_path / ".run.semblant-lock", "run"):
            (tmp_path / "reached").touch()
            time.sleep(300)

    child = fork(work)
    child.until((tmp_path / "reached").exists)
    with pytest.raises(FileProblem, match=f"process {child.pid} on {HOST}"):
        sb.fit("textual-inversion", base, subject, **given)
    child.signal(signal.SIGKILL)
    child.wait()
    assert sb.fit("textual-inversion", base, subject, **given).steps == 2


def test_of_many_at_once_exactly_one_gets_it(fork: Run, tmp_path: Path) -> None:
    # A dead run's lock lies there, so that all of them want to take it over.
    (tmp_path / "a.lock").write_text(json.dumps({"pid": 2**22 - 1, "thread": 1, "host": HOST}))
    go = tmp_path / "go"

    def work() -> None:
        while not go.exists():
            time.sleep(0.001)
        try:
            with held(tmp_path / "a.lock", "a"):
                (tmp_path / f"got {os.getpid()}").touch()
                time.sleep(0.5)
        except FileProblem:
            raise SystemExit(3) from None

    children = [fork(work) for _ in range(8)]
    go.touch()
    assert sorted(child.wait().code for child in children) == [0, 3, 3, 3, 3, 3, 3, 3]
    assert len(list(tmp_path.glob("got *"))) == 1 and not (tmp_path / "a.lock").exists()


def test_in_turn_all_of_them_do(fork: Run, tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            try:
                with held(tmp_path / "a.lock", "a"):
                    counted = int((tmp_path / "count").read_text())
                    time.sleep(0.001)
                    (tmp_path / "count").write_text(str(counted + 1))
            except FileProblem:
                continue
            (tmp_path / "own" / str(os.getpid())).open("a").write("x")

    (tmp_path / "count").write_text("0")
    (tmp_path / "own").mkdir()
    children = [fork(work) for _ in range(4)]
    assert [child.wait().code for child in children] == [0] * 4
    done = sum(len(path.read_text()) for path in (tmp_path / "own").iterdir())
    assert int((tmp_path / "count").read_text()) == done > 0


def test_a_lock_of_another_computer_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text(json.dumps({"pid": 1, "thread": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(FileProblem, match=r"process 1 on elsewhere, since 2026.*delete .*a\.lock"), held(path, "a"):
        pass
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", '{"pid": "x"}', '{"pid": 5}', "\0" * 9, '{"pid": 5, "thr\0\0'])
def test_a_lock_that_names_nobody_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.lock").write_text(content)
    with held(tmp_path / "a.lock", "a"):
        assert json.loads((tmp_path / "a.lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "a.lock").exists()


@pytest.mark.parametrize("content", ["version = 1\n", "[]", '{"name": "ours"}', "# yarn lockfile v1\n", "\0\0x"])
def test_a_file_of_that_name_that_is_no_lock_stays_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.lock"
    path.write_text(content)
    with pytest.raises(FileProblem, match=r"a\.lock is no lock file of semblant.* another --out"), held(path, "a"):
        pass
    assert path.read_text() == content


def test_what_has_taken_a_locks_name_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with held(path, "a"):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


@pytest.mark.parametrize("refused", [True, False])
def test_the_lock_files_of_other_programs_are_let_alone(
    command: Run, photo: Path, fork: Run, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def no_base(*given: Any, **named: Any) -> Base:
        raise FileProblem("no base")

    if refused:
        monkeypatch.setattr(verbs, "load", no_base)
    for name in ("uv", "yarn"):
        Path(f"{name}.lock").write_text(f"of {name}")
    line = ("fit", "textual-inversion", photo, "--class-word", "dog", "--face", "none", "--no-verdict", "--steps", 1)
    for more in (("--word", "<m>", "--out", "uv.safetensors"), ("--word", "<yarn>")):
        ended = fork(lambda more=more: command(*line, *more)).wait()
        assert ended.code == (3 if refused else 0), ended.said
    assert [Path(f"{name}.lock").read_text() for name in ("uv", "yarn")] == ["of uv", "of yarn"]
    assert not list(Path().glob(".*lock"))


def test_who_has_a_dead_runs_number_now_is_not_taken_for_it(tmp_path: Path) -> None:
    # Process 1 lives, but does not hold the file.
    (tmp_path / "a.lock").write_text(json.dumps({"pid": 1, "thread": 1, "host": HOST}))
    with held(tmp_path / "a.lock", "a"):
        assert json.loads((tmp_path / "a.lock").read_text())["pid"] == os.getpid()


def test_a_lock_whose_name_goes_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grip, gone = lock._grip, []

    def late(handle: int) -> bool | None:
        # Its holder ended between the opening of the file and the hold on it.
        if not gone:
            gone.append((tmp_path / "a.lock").unlink())
        return grip(handle)

    monkeypatch.setattr(lock, "_grip", late)
    with held(tmp_path / "a.lock", "a"):
        assert json.loads((tmp_path / "a.lock").read_text())["pid"] == os.getpid()


def test_where_the_system_holds_no_files_the_number_of_the_process_decides(
    fork: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_grip", lambda handle: None)
    path = tmp_path / "a.lock"

    def work() -> None:
        with held(path, "a"):
            time.sleep(300)

    child = fork(work)
    child.until(lambda: path.exists() and bool(path.read_text()))
    with pytest.raises(FileProblem, match=f"process {child.pid}"), held(path, "a"):
        pass
    child.signal(signal.SIGKILL)
    child.wait()
    with held(path, "a"), held(path, "a"):
        # The same run may hold it within itself.
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_within_itself_is_let_go_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with held(path, "a"):
        with held(path, "a"):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_second_demo_in_a_folder_hears_of_the_first(command: Run, fork: Run, tmp_path: Path) -> None:
    def work() -> None:
        with held(tmp_path / ".demo.semblant-lock", "demo"):
            (tmp_path / "reached").touch()
            time.sleep(300)

    child = fork(work)
    child.until((tmp_path / "reached").exists)
    refused = CliRunner().invoke(app, ["demo", "--out", "demo", "--quick"])
    assert refused.exit_code == 3 and f"process {child.pid} on {HOST}" in refused.stderr
    assert not Path("demo").exists()


def test_a_name_that_is_taken_this_instant_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-seed0.png").write_bytes(b"another run's")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", lambda self: False)
        assert write(Image.new("RGB", (32, 32)), tmp_path, "a", 0, {}).name == "a-seed0-2.png"
    assert (tmp_path / "a-seed0.png").read_bytes() == b"another run's"


def test_two_samplers_in_one_folder_lose_no_picture(command: Run, fork: Run, tmp_path: Path) -> None:
    line = ("sample", "a person", "-n", 3, "--steps", 1, "--size", 32)
    children = [fork(lambda: command(*line)) for _ in range(3)]
    assert [child.wait().code for child in children] == [0] * 3
    assert len(list(tmp_path.glob("images/*.png"))) == 9
