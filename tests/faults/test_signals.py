"""Ctrl-C and SIGTERM: the run saves itself, ends within five seconds, and says how to go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semblant import verbs
from semblant.backbones.base import Base
from semblant.cli import fitting, interruption, subjects
from semblant.cli.interruption import stoppable, terminable
from semblant.data.pictures import read_settings
from semblant.training.checkpoint import State, Store
from semblant.training.concepts import load
from semblant.training.course import Course
from semblant.training.optimise import Progress
from semblant.training.run import Run as TrainingRun
from semblant.training.run import undisturbed

Run = Callable[..., Any]
SOON = 5.0
STEPS = ("--steps", 400)


def telling(reached: Path) -> Callable[..., None]:
    """A teller that leaves a mark once three steps are done, and then takes its time."""
    told = fitting.Teller.__call__

    def tell(self: Any, progress: Progress) -> None:
        told(self, progress)
        if progress.step == 3:
            reached.touch()
        if progress.step >= 3:
            time.sleep(0.01)

    return tell


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_between_two_steps_it_saves_and_says_how_to_go_on(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", telling(tmp_path / "reached"))
        child = fork(lambda: fit(*STEPS))
        child.until((tmp_path / "reached").exists)
        child.signal(number)
        ended = child.wait()
    assert ended.code == 130 and ended.seconds < SOON, ended.said
    assert "stopping after this step, and saving; once more stops at once" in ended.said
    assert "error: interrupted at step" in ended.said and "the same command with `--resume` goes on" in ended.said
    assert "Traceback" not in ended.said
    assert len(list(Path("maya.checkpoint").iterdir())) == 1 and not Path(".maya.semblant-lock").exists()
    assert not Path("maya.safetensors").exists()


def test_what_was_stopped_goes_on_to_the_same_concept(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = ("--steps", 6, "--out")
    assert fork(lambda: fit(*steps, "whole")).wait().code == 0
    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", telling(tmp_path / "reached"))
        child = fork(lambda: fit(*steps, "half"))
        child.until((tmp_path / "reached").exists)
        child.signal(signal.SIGTERM)
        assert child.wait().code in (130, 0)
    resumed = fork(lambda: fit(*steps, "half", "--resume", "--force")).wait()
    assert resumed.code == 0, resumed.said
    whole, half = load("whole.safetensors"), load("half.safetensors")
    assert whole.tensors["rows"].equal(half.tensors["rows"]) and whole.losses == half.losses


def test_in_the_midst_of_a_step_that_takes_minutes(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    denoise, calls = Base.denoise, [0]

    def slow(self: Base, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            (tmp_path / "reached").touch()
            time.sleep(120)
        return denoise(self, *given)

    # The grace is made shorter, so that the test is; five seconds hold with the real one.
    assert interruption.GRACE < SOON - 1
    monkeypatch.setattr(interruption, "GRACE", 0.3)
    monkeypatch.setattr(Base, "denoise", slow)
    child = fork(lambda: fit(*STEPS))
    child.until((tmp_path / "reached").exists)
    child.signal(signal.SIGTERM)
    ended = child.wait()
    assert ended.code == 130 and ended.seconds < SOON - interruption.GRACE - 1, ended.said
    # Two steps are done; the third leaves no trace.
    assert "interrupted at step 2 of 400: the state after step 2 is in maya.checkpoint" in ended.said


def test_in_the_midst_of_an_update_it_is_done_first(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    update = Course.update

    def slow(self: Course, loss: float, found: Any) -> None:
        update(self, loss, found)
        if self.taken == 2:
            # As if the optimiser were at work when somebody presses Ctrl-C twice.
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    monkeypatch.setattr(Course, "update", slow)
    ended = fork(lambda: fit(*STEPS)).wait()
    assert ended.code == 130, ended.said
    assert "interrupted at step 2 of 400: the state after step 2 is in maya.checkpoint" in ended.said


def slowly(monkeypatch: pytest.MonkeyPatch, reached: Path) -> None:
    """Every checkpoint takes longer than the grace, which is made shorter."""
    write = Store.write

    def late(self: Store, state: State) -> Path:
        with reached.open("a") as file:
            file.write("x")
        time.sleep(1)
        return write(self, state)

    monkeypatch.setattr(interruption, "GRACE", 0.3)
    monkeypatch.setattr(Store, "write", late)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_save_that_takes_longer_than_a_step_may_is_done(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    slowly(monkeypatch, tmp_path / "saving")
    monkeypatch.setattr(fitting.Teller, "__call__", telling(tmp_path / "reached"))
    child = fork(lambda: fit(*STEPS))
    child.until((tmp_path / "reached").exists)
    child.signal(number)
    ended = child.wait()
    assert ended.code == 130 and "error: interrupted at step" in ended.said, ended.said
    assert "is in maya.checkpoint; the same command with `--resume` goes on" in ended.said
    assert len(list(Path("maya.checkpoint").iterdir())) == 1


def test_ctrl_c_pressed_over_and_over_does_not_lose_what_is_being_saved(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slowly(monkeypatch, tmp_path / "saving")
    monkeypatch.setattr(fitting.Teller, "__call__", telling(tmp_path / "reached"))
    child = fork(lambda: fit(*STEPS))
    child.until((tmp_path / "reached").exists)
    child.signal(signal.SIGINT)
    child.until((tmp_path / "saving").exists)
    for _ in range(3):
        child.signal(signal.SIGINT)
        time.sleep(0.05)
    ended = child.wait()
    assert ended.code == 130 and "error: interrupted at step" in ended.said, ended.said
    assert len(list(Path("maya.checkpoint").iterdir())) == 1


def test_a_checkpoint_on_its_way_is_finished_and_not_written_again(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slowly(monkeypatch, tmp_path / "saving")
    child = fork(lambda: fit("--steps", 101))
    child.until((tmp_path / "saving").exists)
    child.signal(signal.SIGTERM)
    ended = child.wait()
    assert ended.code == 130 and "interrupted at step 100 of 101: the state after step 100" in ended.said, ended.said
    assert (tmp_path / "saving").read_text() == "x"


def test_sigterm_in_an_update_is_the_first_time_and_the_end_of_the_grace_the_second(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    update, recover = Course.update, TrainingRun._recover

    def terminated(self: Course, loss: float, found: Any) -> None:
        update(self, loss, found)
        if self.taken == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    def slow(self: TrainingRun, course: Course) -> None:
        if course.taken == 2:
            time.sleep(120)
        recover(self, course)

    monkeypatch.setattr(interruption, "GRACE", 0.3)
    monkeypatch.setattr(Course, "update", terminated)
    monkeypatch.setattr(TrainingRun, "_recover", slow)
    ended = fork(lambda: fit(*STEPS)).wait()
    assert ended.code == 130 and "Traceback" not in ended.said, ended.said
    assert "interrupted at step 2 of 400: the state after step 2 is in maya.checkpoint" in ended.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_nothing_is_left(
    fit: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def slow(*given: Any, **named: Any) -> Any:
        (tmp_path / "reached").touch()
        time.sleep(120)

    monkeypatch.setattr(subjects, "examine", slow)
    child = fork(lambda: fit(*STEPS))
    child.until((tmp_path / "reached").exists)
    child.signal(number)
    ended = child.wait()
    assert ended.code == 130 and ended.seconds < SOON and "error: interrupted" in ended.said, ended.said
    assert "Traceback" not in ended.said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "reached"]


def test_samples_that_are_made_stay(command: Run, fork: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verbs, "AT_ONCE", 1)
    child = fork(lambda: command("sample", "a person", "-n", 2000, "--steps", 2, "--size", 32))
    child.until(lambda: len(list(tmp_path.glob("images/*.png"))) > 2)
    child.signal(signal.SIGTERM)
    ended = child.wait()
    assert ended.code == 130 and ended.seconds < SOON, ended.said
    assert all(read_settings(path)["prompt"] == "a person" for path in tmp_path.glob("images/*.png"))
    assert not [path for path in (tmp_path / "images").iterdir() if path.name.startswith(".")]


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with terminable(), stoppable(lambda text: None, "stopping") as asked:
        assert not asked()
    with undisturbed():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_is_heard_after_the_block_and_not_in_it(fork: Run) -> None:
    def work() -> None:
        done = []
        with pytest.raises(KeyboardInterrupt), undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            done.append(1)
        assert done

    ended = fork(work).wait()
    assert ended.code == 0, ended.said
