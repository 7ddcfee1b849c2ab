"""Several subjects in one run: each learns what it learns alone, and one checkpoint holds all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import semblant as sb
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.methods.index import methods
from semblant.training.concepts import Concept
from semblant.training.optimise import Interrupted, Progress

WORDS = ("<maya>", "<rex>", "<ada>")
QUICK: dict[str, dict[str, Any]] = {
    "textual-inversion": {"views": 2, "batch": 2, "lr": 0.01},
    "sefi-ide": {"views": 2, "calibration_draws": 1, "stages": 2},
}
FOUR: dict[str, Any] = {"steps": 4, **QUICK["textual-inversion"]}


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(channels=(8,))


def subject(word: str, pictures: int = 1) -> Subject:
    draw = np.random.default_rng(sum(map(ord, word)))
    made = [Image.fromarray((draw.random((32, 32, 3)) * 255).astype("uint8")) for _ in range(pictures)]
    return Subject(tuple(made), word, "dog" if word == "<rex>" else "person", sources=(word,) * pictures)


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return [subject(word, pictures) for pictures, word in enumerate(WORDS, 1)]


def apart(one: Concept, other: Concept) -> float:
    """Largest relative distance of their tensors."""
    assert one.tensors.keys() == other.tensors.keys()
    return max(float((t - other.tensors[name]).norm() / t.norm()) for name, t in one.tensors.items())


@pytest.mark.parametrize("method", QUICK)
def test_each_learns_what_it_learns_alone(base: Base, subjects: list[Subject], method: str) -> None:
    given: dict[str, Any] = {"seed": 3, "steps": 4, **QUICK[method]}
    together = sb.fit(method, base, subjects, **given)
    for one, concept in zip(subjects, together, strict=True):
        alone = sb.fit(method, base, one, **given)
        # Gradients agree to 1e-5 (tests/training/test_optimise.py); four steps add up what they differ by.
        assert apart(concept, alone) < 3e-5
        assert concept.losses == pytest.approx(alone.losses, rel=1e-5)
        facts = ("method", "settings", "word", "class_word", "base", "seed", "steps", "stages", "pictures")
        assert all(getattr(concept, name) == getattr(alone, name) for name in facts)
        assert concept.figures.keys() == alone.figures.keys()
        moved = sb.fit(method, base, one, **{**given, "steps": 1})
        assert apart(moved, alone) > 1e-4


def test_one_in_a_list_is_one_alone_to_the_bit(base: Base, subjects: list[Subject]) -> None:
    (listed,) = sb.fit("textual-inversion", base, subjects[:1], **FOUR)
    assert listed.tensors["rows"].equal(sb.fit("textual-inversion", base, subjects[0], **FOUR).tensors["rows"])


def test_progress_tells_them_apart(base: Base, subjects: list[Subject]) -> None:
    seen: list[Progress] = []
    concepts = sb.fit("textual-inversion", base, subjects[:2], progress=seen.append, **FOUR)
    assert [(p.step, p.steps, p.learners) for p in seen] == [(k, 4, (0, 1)) for k in (1, 2, 3, 4)]
    assert seen[-1].losses == pytest.approx([c.losses["last"] for c in concepts])
    assert seen[-1].loss == pytest.approx(sum(seen[-1].losses) / 2)
    for index, concept in enumerate(concepts):
        own = seen[-1].figures_of(index)
        assert own and own.items() <= concept.figures.items()
    alone: list[Progress] = []
    sb.fit("textual-inversion", base, subjects[0], progress=alone.append, **FOUR)
    assert alone[-1].figures_of(0) == dict(alone[-1].figures) and alone[-1].losses == (alone[-1].loss,)


def test_steps_of_each_are_kept(base: Base, subjects: list[Subject]) -> None:
    kept: list[Concept] = []
    concepts = sb.fit("textual-inversion", base, subjects[:2], keep_every=2, keep=kept.append, **FOUR)
    assert [(c.word, c.steps) for c in kept] == [(w, k) for k in (2, 4) for w in WORDS[:2]]
    assert kept[2:] == concepts and "longest row" in kept[0].figures
    two = sb.fit("textual-inversion", base, subjects[1], **{**FOUR, "steps": 2})
    assert apart(kept[1], two) < 1e-5 and kept[1].losses["last"] == pytest.approx(two.losses["last"])


def test_one_checkpoint_holds_all_and_resuming_is_exact(base: Base, subjects: list[Subject], tmp_path: Path) -> None:
    taken: list[int] = []
    whole = sb.fit("textual-inversion", base, subjects, **FOUR)
    given: dict[str, Any] = {"checkpoint": tmp_path, **FOUR}
    with pytest.raises(Interrupted, match=r"step 2 of 4.*--resume"):
        sb.fit(
            "textual-inversion",
            base,
            subjects,
            progress=lambda p: taken.append(p.step),
            stop=lambda: len(taken) == 2,
            **given,
        )
    refused: list[tuple[list[Subject], str]] = [
        (subjects[:2], "subjects.3.word"),
        ([subjects[0], subject("<eve>", 2), subjects[2]], "subjects.2.word"),
        ([subjects[1], subjects[0], subjects[2]], 'subjects.1.class_word was "person", is "dog"'),
    ]
    for others, named in refused:
        with pytest.raises(SemblantError, match="belongs to another run") as caught:
            sb.fit("textual-inversion", base, others, resume=True, **given)
        assert named in str(caught.value)
    resumed = sb.fit("textual-inversion", base, subjects, resume=True, **given)
    for one, other in zip(whole, resumed, strict=True):
        assert one.tensors["rows"].equal(other.tensors["rows"]) and one.losses == other.losses


def test_each_stops_early_on_its_own(base: Base, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.methods.method import FittingMethod
    from semblant.training import course
    from semblant.training.stopping import Settling

    steady = {"<maya>": 1, "<rex>": 2}
    monkeypatch.setattr(FittingMethod, "settling", lambda self: Settling(2, 0.1, every=1) if self.early_stop else None)
    # Nothing moves from the step on that the word is given; a window of two looks sees it one step later.
    monkeypatch.setattr(
        course, "look", lambda base, learner, *given, **more: float(max(0, steady[learner.word] - learner.done))
    )
    concepts = sb.fit("textual-inversion", base, subjects[:2], early_stop=True, **{**FOUR, "steps": 9})
    assert [concept.steps for concept in concepts] == [2, 3]
    assert [concept.figures["stopped"][:14] for concept in concepts] == ["at step 2 of 9", "at step 3 of 9"]
    for one, concept in zip(subjects, concepts, strict=False):
        assert apart(concept, sb.fit("textual-inversion", base, one, **{**FOUR, "steps": concept.steps})) < 1e-5


@pytest.mark.parametrize(
    ("words", "says"), [((), "no subject"), (("<maya>", "<rex>", "<maya>"), "two subjects are called <maya>")]
)
def test_subjects_that_cannot_be_told_apart_are_refused(base: Base, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(SemblantError, match=says):
        sb.fit("textual-inversion", base, [subject(word) for word in words], **FOUR)


@pytest.mark.parametrize("method", [name for name, kind in methods().items() if not kind.shares_base])
def test_methods_that_change_weights_say_which_can(
    base: Base, subjects: list[Subject], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Callable[..., Any]] = []
    monkeypatch.setattr(methods()[method], "learner", lambda *given: asked.append(given))
    with pytest.raises(SemblantError, match=f"{method} changes .*sefi-ide, textual-inversion") as refused:
        sb.fit(method, base, subjects)
    # In one sentence, and before anything costly is made.
    assert ". " not in str(refused.value) and not asked
    assert torch.is_grad_enabled()
