"""Losses that are not finite: left out, then gone back on, then reported; and never written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import semblant as sb
from semblant.backbones.base import Base
from semblant.bench.runs import RunFolder
from semblant.cli.main import app
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.training import concepts, words
from semblant.training.checkpoint import Store
from semblant.training.concepts import Concept
from semblant.training.optimise import PATIENCE, Progress

SETTINGS: dict[str, Any] = {"views": 2, "batch": 1}


def spoil(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool], value: float = math.nan) -> list[int]:
    """Make the loss of some calls something else; the calls are counted from 1."""
    calls, plain = [0], words.denoising_error

    def error(*given: Any) -> Tensor:
        calls[0] += 1
        return plain(*given) * (value if when(calls[0]) else 1)

    monkeypatch.setattr(words, "denoising_error", error)
    return calls


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_such_update_is_left_out_and_said(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    rows: list[Tensor] = []
    spoil(monkeypatch, lambda call: call in (3, 5), value)
    with monkeypatch.context() as patched:
        after = words.WordLearner.after_step
        patched.setattr(
            words.WordLearner, "after_step", lambda self: (after(self), rows.append(self.tensors()["rows"]))
        )
        concept = sb.fit("textual-inversion", base, subject, steps=6, **SETTINGS)
    assert len(rows) == 4 and concept.figures["skipped updates"] == 2 and concept.steps == 6
    assert concept.tensors["rows"].isfinite().all() and math.isfinite(concept.losses["last"])
    assert caplog.text.count("step 3 is not finite; such updates are left out") == 1


def test_after_several_in_a_row_it_goes_back_to_what_was_sound_and_on(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    # Remembered at steps 2 and 4; then one more sound step, and nothing but trouble.
    first = 6
    spoil(monkeypatch, lambda call: first <= call < first + PATIENCE)
    rows: dict[int, Tensor] = {}
    kept = lambda concept: rows.setdefault(concept.steps, concept.tensors["rows"])
    given: dict[str, Any] = {"steps": 18, "every": 2, "keep_every": 1, "keep": kept, **SETTINGS}
    concept = sb.fit("textual-inversion", base, subject, **given)
    assert "not finite for 10 steps in a row, up to step 15: going back to what was learned by step 4" in caplog.text
    assert not rows[5].equal(rows[4]) and all(rows[step].equal(rows[5]) for step in range(6, 15))
    assert rows[15].equal(rows[4]) and not rows[16].equal(rows[4])
    assert concept.steps == 18 and concept.figures["skipped updates"] == PATIENCE


def test_going_back_is_the_same_to_the_bit_in_a_run_that_was_stopped_meanwhile(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"steps": 18, "every": 2, **SETTINGS}
    trouble = range(6, 6 + PATIENCE)
    with monkeypatch.context() as patched:
        spoil(patched, lambda call: call in trouble)
        whole = sb.fit("textual-inversion", base, subject, **given)
    for stop in (5, 9, 13):
        taken: list[Progress] = []
        with monkeypatch.context() as patched:
            spoil(patched, lambda call: call in trouble)
            with pytest.raises(SemblantError, match=f"interrupted at step {stop}"):
                at = tmp_path / str(stop)
                watch: dict[str, Any] = {"progress": taken.append, "stop": lambda: len(taken) == stop}  # noqa: B023
                sb.fit("textual-inversion", base, subject, checkpoint=at, **watch, **given)
        with monkeypatch.context() as patched:
            spoil(patched, lambda call: call + stop in trouble)  # noqa: B023
            resumed = sb.fit("textual-inversion", base, subject, checkpoint=at, resume=True, **given)
        assert resumed.tensors["rows"].equal(whole.tensors["rows"]), stop


def test_when_that_does_not_help_it_is_reported_with_the_sound_state_saved(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil(monkeypatch, lambda call: call > 4)
    rows: dict[int, Tensor] = {}
    kept = lambda concept: rows.setdefault(concept.steps, concept.tensors["rows"])
    given: dict[str, Any] = {"steps": 100, "every": 4, "keep_every": 4, "keep": kept, "checkpoint": tmp_path}
    with pytest.raises(SemblantError) as caught:
        sb.fit("textual-inversion", base, subject, **given, **SETTINGS)
    said = str(caught.value)
    assert (
        "not finite for 10 steps in a row, up to step 24, also after going back to what was learned by step 4" in said
    )
    assert "A learning rate below 0.005" in said and str(tmp_path) in said and "\n" not in said
    state = Store(tmp_path).read()
    assert state is not None
    saved = {name: t for name, t in state.tensors.items() if name.startswith("0.parameter")}
    assert len(saved) == 1 and next(iter(saved.values())).equal(rows[4])


def test_the_command_says_it_in_one_sentence_and_counts_what_was_left_out(
    command: Callable[..., Any], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["fit", "textual-inversion", photo, "--word", "<maya>", "--class-word", "person", "--face", "none"]
    line += ["--set", "views=2", "--set", "batch=1", "--precision", "float32", "--no-verdict"]
    run = lambda *more: CliRunner().invoke(app, [*map(str, [*line, *more])])
    with monkeypatch.context() as patched:
        spoil(patched, lambda call: call == 2)
        few = run("--steps", 3)
    assert few.exit_code == 0 and "1 update was left out: the loss was not finite" in few.stdout
    spoil(monkeypatch, lambda call: True)
    all_of_them = run("--steps", 30, "--out", "none")
    assert all_of_them.exit_code == 2 and all_of_them.stderr.count("error: ") == 1
    assert "not finite for 10 steps in a row" in all_of_them.stderr and "Traceback" not in all_of_them.output
    assert not Path("none.safetensors").exists()


@pytest.fixture
def concept(base: Base, subject: Subject) -> Concept:
    return sb.fit("textual-inversion", base, subject, steps=1, **SETTINGS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_way_of_writing_a_concept_takes_what_is_not_finite(concept: Concept, tmp_path: Path, value: float) -> None:
    rows = concept.tensors["rows"].clone()
    rows.view(-1)[3] = value
    spoiled = replace(concept, tensors={"rows": rows})
    for write in (concepts.save, concepts.save_embedding):
        with pytest.raises(SemblantError, match="<maya> is not saved"):
            write(spoiled, tmp_path / "maya.safetensors")
    assert RunFolder(tmp_path / "maya.run").keep(spoiled) is None
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_checkpoint_never_holds_a_parameter_that_is_not_finite(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    after, ruined = words.WordLearner.after_step, []

    def ruin(self: Any) -> None:
        after(self)
        if self.done == 3 and not ruined:
            ruined.append(3)
            with torch.no_grad():
                next(iter(self.parameters.values())).fill_(math.inf)

    monkeypatch.setattr(words.WordLearner, "after_step", ruin)
    concept = sb.fit("textual-inversion", base, subject, steps=6, every=1, checkpoint=tmp_path, **SETTINGS)
    assert "what was learned is not finite after step 3: going back to what was learned by step 2" in caplog.text
    assert concept.tensors["rows"].isfinite().all() and concept.steps == 6
    state = Store(tmp_path).read()
    assert state is not None and all(t.isfinite().all() for t in state.tensors.values() if t.is_floating_point())
