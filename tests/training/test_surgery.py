"""Words taken apart: every timestep finds the row it should, and what is refused."""

from __future__ import annotations

import pytest
import torch

from semblant.errors import SemblantError
from semblant.ops.schedule import stage_of_timestep
from semblant.patches.words import LearnedWord
from semblant.training.concepts import Concept
from semblant.training.surgery import added_until, exchanged, substituted

CLASS = torch.full((4,), -1.0)


def concept(word: str = "<a>", stages: int = 5, parts: int = 2, start: float = 0.0) -> Concept:
    rows = start + torch.arange(stages * parts, dtype=torch.float32).view(stages, 1, parts, 1, 1).expand(
        -1, -1, -1, -1, 4
    )
    of = stage_of_timestep(stages).tolist() if stages > 1 else None
    return Concept("sefi-ide", {}, word, "person", {}, {"rows": rows.contiguous()}, of)


def row(made: Concept, t: int, part: str = "key") -> float:
    word = LearnedWord(made.word, made.tensors["rows"], CLASS, torch.tensor(made.stages))
    return float(made.tensors["rows"][word.variant(t, None, part)][0, 0])


def test_a_word_is_added_part_by_part_from_the_most_noise_on() -> None:
    whole = concept()
    for parts in (0, 3, 10):
        made = added_until(whole, CLASS, parts)
        for t in range(0, 1000, 7):
            expected = row(whole, t) if (999 - t) // 100 < parts else -1.0
            assert row(made, t) == expected
    with pytest.raises(SemblantError, match="10 parts; got 11"):
        added_until(whole, CLASS, 11)


def test_words_without_stages_can_be_added_too() -> None:
    made = added_until(concept(stages=1, parts=1), CLASS, 4, of=8)
    assert row(made, 999) == row(made, 500) == 0 and row(made, 499) == row(made, 0) == -1


def test_keys_and_values_are_exchanged() -> None:
    one, other = concept(), concept("<b>", start=100)
    made = exchanged(one, other)
    for t in (0, 450, 999):
        assert row(made, t, "key") == row(one, t, "key") and row(made, t, "value") == row(other, t, "value")
    assert made.word == "<a>"
    shared = exchanged(concept(parts=1), other)
    assert row(shared, 999, "key") == 0 and row(shared, 999, "value") == row(other, 999, "value")
    with pytest.raises(SemblantError, match="the same stages"):
        exchanged(one, concept("<b>", stages=10))


def test_rows_are_substituted_by_the_class_words() -> None:
    whole = concept()
    made = substituted(whole, CLASS, {0, 4}, "value")
    assert row(made, 999, "value") == row(made, 0, "value") == -1
    assert row(made, 999, "key") == row(whole, 999, "key") and row(made, 500, "value") == row(whole, 500, "value")
    assert row(substituted(whole, CLASS, {0}), 999, "key") == -1
    assert row(whole, 999, "value") != -1
    with pytest.raises(SemblantError, match="stages 0 to 4; got 5"):
        substituted(whole, CLASS, {5})
    with pytest.raises(SemblantError, match="no rows"):
        substituted(Concept("lora", {}, "<a>", "person", {}, {}), CLASS, {0})
