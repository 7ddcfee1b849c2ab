"""Stopping early as a user asks for it: what may be given, what is said, what the concept tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.data.subject import Subject
from semblant.methods.index import methods
from semblant.methods.method import FittingMethod
from semblant.training import concepts
from semblant.training.optimise import Interrupted
from semblant.training.stopping import Settling

Run = Callable[..., Any]
DVAR = {"custom-diffusion": (180, 0.15), "lora-dreambooth": (440, 0.4)}
"""N and alpha of arXiv 2302.04841 where they are not those for Textual Inversion."""


@pytest.fixture(scope="module")
def tiny() -> Base:
    return miniature(channels=(8,))


@pytest.fixture(scope="module")
def subject() -> Subject:
    pixels = (np.random.default_rng(0).random((32, 32, 3)) * 255).astype("uint8")
    return Subject((Image.fromarray(pixels),), "<maya>", "person")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks to stop early stops after four steps."""
    rule = Settling(4, 1e9, every=2, rows=1)
    monkeypatch.setattr(FittingMethod, "settling", lambda self: rule if self.early_stop else None)


def fit(run: Run, base: Path, portrait: Path, *more: Any) -> Any:
    said = ("--word", "<maya>", "--class-word", "person", "--face", "none", "--base", base, "--set", "views=2")
    return run("fit", "textual-inversion", portrait, *said, "--precision", "float32", "--no-verdict", *more)


def test_the_defaults_are_the_published_ones() -> None:
    for name, kind in methods().items():
        assert verbs.method(name).settling() is None
        rule = kind(early_stop=True).settling()  # type: ignore[call-arg]
        assert rule is not None and (rule.window, rule.ratio) == DVAR.get(name, (310, 0.15)), name


@pytest.mark.usefixtures("hasty")
def test_the_concept_says_at_which_step_it_stopped_and_why(tiny: Base, subject: Subject, tmp_path: Path) -> None:
    concept = verbs.fit("textual-inversion", tiny, subject, steps=9, views=2, early_stop=True)
    concepts.save(concept, tmp_path / "maya.safetensors")
    read = concepts.load(tmp_path / "maya.safetensors")
    assert read.steps == 4 and read.figures["stopped"].startswith(
        "at step 4 of 9: the loss on 1 fixed draws has settled"
    )
    assert read.settings["early_stop"] is True and read.settings["steps"] == 9
    whole = verbs.fit("textual-inversion", tiny, subject, steps=4, views=2)
    assert torch.equal(whole.tensors["rows"], read.tensors["rows"]) and "stopped" not in whole.figures


@pytest.mark.parametrize("expansion", ["module", "direct"])
def test_rows_that_are_parameters_are_looked_at_without_gradients_too(
    tiny: Base, subject: Subject, expansion: str
) -> None:
    given: dict[str, Any] = {"steps": 2, "views": 2, "calibration_draws": 1, "expansion": expansion}
    watched = verbs.fit("sefi-ide", tiny, subject, early_stop=True, **given)
    assert torch.equal(watched.tensors["rows"], verbs.fit("sefi-ide", tiny, subject, **given).tensors["rows"])


@pytest.mark.parametrize(("steps", "warned"), [(325, True), (326, False)])
def test_a_run_that_ends_before_the_first_look_to_stop_at_is_warned_of(
    tiny: Base, subject: Subject, caplog: pytest.LogCaptureFixture, steps: int, warned: bool
) -> None:
    with pytest.raises(Interrupted):
        verbs.fit("textual-inversion", tiny, subject, steps=steps, views=1, early_stop=True, stop=lambda: True)
    assert ("the first step to stop at is 325" in caplog.text) is warned


def test_a_run_too_short_to_stop_early_is_warned_of(
    tiny: Base, subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    verbs.fit("textual-inversion", tiny, subject, steps=1, views=2, early_stop=True)
    assert "no run of 1 steps can stop early" in caplog.text and "stop_window=310" in caplog.text
    caplog.clear()
    verbs.fit("textual-inversion", tiny, subject, steps=1, views=2)
    assert "early" not in caplog.text


@pytest.mark.usefixtures("hasty")
def test_the_end_of_a_fit_says_it_in_words_and_for_programs(run: Run, base: Path, portrait: Path) -> None:
    result = fit(run, base, portrait, "--steps", 9, "--early-stop")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("<maya> is in maya.safetensors, after 4 steps")
    assert "it stopped at step 4 of 9: the loss on" in result.stdout and "fitting: 4 of 4" in result.stderr
    again = fit(run, base, portrait, "--steps", 9, "--set", "early-stop=yes", "--json", "--force")
    answer = json.loads(again.stdout)
    assert answer["steps"] == 4 and answer["figures"]["stopped"].startswith("at step 4 of 9")
    whole = fit(run, base, portrait, "--steps", 4, "--json", "--force")
    assert "stopped" not in json.loads(whole.stdout)["figures"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--early-stop", "--set", "early_stop=true"), "given twice"),
        (("--early-stop", "--set", "stop_window=30"), "50 steps or more"),
        (("--early-stop", "--set", "stop_ratio=-1"), "0 or more"),
        (("--set", "early_stop=perhaps"), "true or false"),
        (("--set", "stop_windows=30"), "stop_window"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    run: Run, base: Path, portrait: Path, more: tuple[str, ...], says: str
) -> None:
    result = fit(run, base, portrait, *more)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("error: ") == 1
    assert not list(Path().iterdir())
