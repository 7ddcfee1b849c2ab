"""A run that may stop early, killed on its way: resumed, it stops at the same step and has learned the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import semblant as sb
from semblant.backbones.base import Base
from semblant.data.subject import Subject
from semblant.methods.method import FittingMethod
from semblant.training import course
from semblant.training.concepts import load, save
from semblant.training.stopping import Settling, look

Fork = Callable[[Callable[[], Any]], Any]


@pytest.mark.parametrize(("dies", "again"), [(3, "234"), (4, "4")])
def test_killed_as_it_looks_and_resumed_it_stops_where_it_would_have(
    base: Base, subject: Subject, fork: Fork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: int, again: str
) -> None:
    # The fifth look, at step 8, is the first that has settled. Checkpoints are written at steps 3 and 6.
    curve, looks = (9.0, 5.0, 3.0, 2.0, 2.0, 2.0), []
    monkeypatch.setattr(FittingMethod, "settling", lambda self: Settling(6, 0.1, every=2, rows=1))

    def learn(name: str, dies: int | None = None, resume: bool = False) -> None:
        def looking(on: Base, learner: Any, *given: Any, **more: Any) -> float:
            look(on, learner, *given, **more)
            looks.append(learner.done // 2)
            if looks[-1] == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return curve[looks[-1]]

        monkeypatch.setattr(course, "look", looking)
        given: dict[str, Any] = {"steps": 12, "views": 2, "early_stop": True, "checkpoint": tmp_path / f"{name}.run"}
        save(sb.fit("textual-inversion", base, subject, every=3, resume=resume, **given), tmp_path / name)
        print(*looks)

    whole = fork(lambda: learn("whole")).wait()
    assert whole.code == 0 and whole.said.split() == list("01234"), whole.said
    assert fork(lambda: learn("again", dies=dies)).wait().code == -signal.SIGKILL
    resumed = fork(lambda: learn("again", resume=True)).wait()
    assert resumed.code == 0 and resumed.said.split() == list(again), resumed.said
    one, other = load(tmp_path / "whole"), load(tmp_path / "again")
    assert one.steps == other.steps == 8 and one.figures["stopped"] == other.figures["stopped"]
    assert one.losses == other.losses and one.tensors["rows"].equal(other.tensors["rows"])
