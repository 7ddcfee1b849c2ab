"""What a fit did from step to step, as drawings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.bench.analysis import adding, attention, course, exchange, frontier
from semblant.bench.runs import Step
from semblant.bench.sitter import Sitter, draw
from semblant.bench.verdict import Verdict
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.training.concepts import Concept
from semblant.world.captions import words


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(vocabulary=words())


@pytest.fixture(scope="module")
def concept(base: Base) -> Concept:
    subject = Subject((draw([Sitter("tune", 3).portrait()], 32)[0],), "<maya>", "person")
    return verbs.fit("sefi-ide", base, subject, steps=1, views=1, stages=2)


def heights(drawing: str) -> dict[str, list[float]]:
    lines = re.findall(r'points="([^"]*)"><title>([^<]*)</title>', drawing)
    return {name: [float(pair.split(",")[1]) for pair in points.split()] for points, name in lines}


def step(number: int, verdict: Verdict | None = None) -> Step:
    return Step(number, Path(f"step-{number}.safetensors"), None, {}, verdict)


def verdict(identity: float | None, prompt: float | None) -> Verdict:
    return Verdict(identity, 1.0, (), ("a photo of <maya>",), 0, 12, {"prompt": prompt})


def test_the_course_of_rows_is_their_length_and_their_distance_in_class_words(base: Base, concept: Concept) -> None:
    class_row = base.token_row("person")
    rows = class_row.expand_as(concept.tensors["rows"]).clone()
    longer = rows.clone()
    longer[:, :, 0] *= 3
    told = course(
        [(step(1), replace(concept, tensors={"rows": rows})), (step(9), replace(concept, tensors={"rows": longer}))],
        base,
    )
    found = heights(told)
    assert list(found) == ["length of keys", "distance of keys", "length of values", "distance of values"]
    # From bottom to top: distance 0, length 1, distance 2, length 3.
    bottom, one = found["distance of values"][0], found["length of values"][0]
    unit = bottom - one
    assert found["distance of keys"] == pytest.approx([bottom, bottom - 2 * unit], abs=0.2)
    assert found["length of keys"] == pytest.approx([one, bottom - 3 * unit], abs=0.2)
    with pytest.raises(SemblantError, match="has no rows"):
        course([(step(1), replace(concept, tensors={"weights": torch.zeros(1)}))], base)


def test_the_frontier_draws_what_has_both_and_says_which_step_it_was() -> None:
    runs = {
        "maya": [step(100, verdict(0.1, 0.6)), step(200, verdict(0.5, 0.5)), step(300, verdict(None, 0.4))],
        "ada": [step(100, verdict(0.3, 0.55)), step(150)],
    }
    told = frontier(runs)
    found = heights(told)
    assert [len(found[name]) for name in ("maya", "ada")] == [2, 1] and found["maya"][0] > found["maya"][1]
    assert ">100</text>" in told and ">200</text>" in told and ">300</text>" not in told
    with pytest.raises(SemblantError, match="no step has both"):
        frontier({"maya": [step(1), step(2, verdict(0.2, None))]})


def test_words_may_be_written_in_capitals(base: Base, concept: Concept) -> None:
    given = {"seed": 0, "steps": 1}
    plain = attention(base, "a photo of {} with a cup", [concept], ["cup"], **given)
    big = replace(concept, class_word="Person")
    assert attention(base, "a photo of {} with a Cup", [big], ["Cup"], **given).size == plain.size


def test_what_has_no_rows_or_is_of_another_base_is_refused(base: Base, concept: Concept) -> None:
    weights = replace(concept, tensors={"weights": torch.zeros(1)})
    wide = replace(
        concept,
        base={**concept.base, "architecture": "sd-1", "width": 2 * base.width},
        tensors={"rows": concept.tensors["rows"].repeat_interleave(2, -1)},
    )
    with pytest.raises(SemblantError, match="learns no rows"):
        exchange(base, "a photo of {}", weights, weights, seeds=1, steps=1)
    for draw_them in (
        lambda: exchange(base, "a photo of {}", wide, wide, seeds=1, steps=1),
        lambda: adding(base, "a photo of {}", wide, seeds=1, steps=1),
        lambda: course([(step(1), wide)], base),
    ):
        with pytest.raises(SemblantError, match="was made for sd-1"):
            draw_them()
