"""A disk that fills up under a command: what was there stays, one sentence says so, exit code 3, and the run goes on
when there is room again."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semblant.training.concepts import load

Run = Callable[..., Any]
STEPS = ("--steps", 4)


def full(ending: str, after: int = 0) -> Callable[[], None]:
    """Let writing fail from now on for every file whose name has this ending, after so many that went well."""

    def work() -> None:
        kept, seen = os.replace, [0]

        def replace(old: Any, new: Any) -> None:
            if str(new).endswith(ending):
                seen[0] += 1
                if seen[0] > after:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            kept(old, new)

        os.replace = replace  # type: ignore[assignment]

    return work


def one_sentence(said: str) -> str:
    """The error, which is one line and the last."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in said and "bug" not in said, said
    return lines[0]


@pytest.fixture
def expected(fit: Run, fork: Run) -> Any:
    """What is learned where there is room."""
    assert fork(lambda: fit(*STEPS, "--out", "expected")).wait().code == 0
    return load("expected.safetensors")


def test_no_room_for_the_concept_keeps_the_run(fit: Run, fork: Run, expected: Any) -> None:
    ended = fork(lambda: (full("maya.safetensors")(), fit(*STEPS))).wait()
    said = one_sentence(ended.said)
    assert ended.code == 3 and "maya.safetensors cannot be written: No space left on device" in said
    assert "the finished run is in maya.checkpoint" in said and "`--resume` writes the concept" in said
    assert not Path("maya.safetensors").exists() and not Path(".maya.semblant-lock").exists()
    resumed = fork(lambda: fit(*STEPS, "--resume")).wait()
    assert resumed.code == 0, resumed.said
    assert load("maya.safetensors").tensors["rows"].equal(expected.tensors["rows"])
    assert not Path("maya.checkpoint").exists()


def test_no_room_for_a_checkpoint_keeps_the_one_before(fit: Run, fork: Run, expected: Any, tmp_path: Path) -> None:
    from semblant.training.run import Run as Loop

    def often() -> None:
        kept = Loop.go

        def go(self: Loop) -> None:
            self.every = 1
            kept(self)

        Loop.go = go  # type: ignore[method-assign]

    ended = fork(lambda: (often(), full("safetensors", after=2)(), fit(*STEPS))).wait()
    said = one_sentence(ended.said)
    assert ended.code == 3 and "checkpoint-000003.safetensors cannot be written: No space left on device" in said
    assert "the run stopped at step 3, and the state after step 2 is in maya.checkpoint" in said and "--resume" in said
    names = sorted(path.name for path in Path("maya.checkpoint").iterdir())
    assert names == ["checkpoint-000001.safetensors", "checkpoint-000002.safetensors"]
    resumed = fork(lambda: fit(*STEPS, "--resume")).wait()
    assert resumed.code == 0, resumed.said
    assert load("maya.safetensors").tensors["rows"].equal(expected.tensors["rows"])


def test_no_room_for_a_kept_step_saves_the_run_if_it_can(fit: Run, fork: Run) -> None:
    ended = fork(lambda: (full("step-000002.safetensors")(), fit(*STEPS, "--keep-every", 2))).wait()
    said = one_sentence(ended.said)
    assert ended.code == 3 and "step-000002.safetensors cannot be written" in said
    assert "the state after step 2 is in maya.checkpoint" in said
    assert fork(lambda: fit(*STEPS, "--keep-every", 2, "--resume")).wait().code == 0
    assert sorted(path.name for path in Path("maya.run").glob("step-*")) == ["step-000004.safetensors"]


def test_what_is_replaced_stays_until_the_new_is_there(fit: Run, fork: Run, expected: Any) -> None:
    before = Path("expected.safetensors").read_bytes()
    line = (*STEPS, "--seed", 9, "--out", "expected", "--force")
    ended = fork(lambda: (full("expected.safetensors")(), fit(*line))).wait()
    assert ended.code == 3 and "what it held before is still there" in one_sentence(ended.said)
    assert Path("expected.safetensors").read_bytes() == before


def test_no_room_for_pictures_pages_and_labels(command: Run, fork: Run, photo: Path, tmp_path: Path) -> None:
    lines: list[tuple[tuple[Any, ...], str]] = [
        (("sample", "a person", "--steps", 1), ".png"),
        (("world", "render", "--n", 1, "--size", 16, "--out", "w"), ".json"),
        (("world", "render", "--n", 1, "--size", 16, "--out", "v"), ".parts.png"),
        (("world", "sheet", "--n", 1, "--size", 16, "--out", "sheet.png"), ".png"),
    ]
    for line, ending in lines:

        def work(line: tuple[Any, ...] = line, ending: str = ending) -> None:
            full(ending)()
            os.link = lambda old, new: os.replace(old, new)  # type: ignore[assignment]
            command(*line)

        ended = fork(work).wait()
        assert ended.code == 3 and "No space left on device" in one_sentence(ended.said), (line, ended.said)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith(".")]


def test_a_disk_that_is_really_full(fit: Run, fork: Run, tmp_path: Path) -> None:
    """On a disk of 40 kilobytes in memory, where the system lets this test mount one."""

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        (tmp_path / "small").mkdir()
        private = (1 << 18) | (1 << 14)
        if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, private, None):
            raise SystemExit(77)
        if libc.mount(b"none", str(tmp_path / "small").encode(), b"tmpfs", 0, b"size=40k"):
            raise SystemExit(77)
        (tmp_path / "small" / "thesis.txt").write_text("x" * 30_000)
        try:
            fit(*STEPS, "--out", "small/maya")
        finally:
            assert (tmp_path / "small" / "thesis.txt").read_text() == "x" * 30_000
            there = sorted(path.name for path in (tmp_path / "small").rglob("*") if path.is_file())
            print("there:", *there)

    ended = fork(work).wait()
    if ended.code == 77:
        pytest.skip("no disk can be mounted here")
    assert ended.code == 3 and "No space left on device" in one_sentence(ended.said), ended.said
    assert "there: thesis.txt" in ended.said.splitlines()
