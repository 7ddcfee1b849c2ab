"""Learned words taken apart and put together: which stages, which keys, which values.

The analyses of SeFi-IDE (arXiv 2402.00631, its figures on progressive adding and substituting): what the rows carry
shows when some of them are replaced by the class word's, or by another subject's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.context import Part
from semblant.errors import SemblantError
from semblant.training.concepts import Concept

SUB_STEPS = 10
"""Parts of the schedule in which words are added one after the other ("ten steps" in the paper)."""


def added_until(concept: Concept, class_row: Float[Tensor, " dim"], parts: int, of: int = SUB_STEPS) -> Concept:
    """The word in the first `parts` of `of` equal parts of the schedule (those of most noise), the class word after.

    0 gives the class word everywhere, `of` the concept as it is. Raises SemblantError for more parts than there are.
    """
    if not 0 <= parts <= of:
        raise SemblantError(f"the schedule is cut into {of} parts; got {parts} of them")
    rows, stages = _rows(concept), _stages(concept)
    count = len(stages)
    passed = [(count - 1 - t) * of // count for t in range(count)]
    # A stage for every pair of the concept's own stage and part, so that each timestep finds its row.
    keys = sorted(set(zip(stages, passed, strict=True)), key=lambda pair: (pair[1], pair[0]))
    plain = class_row.expand_as(rows[0])
    table = torch.stack([rows[stage] if part < parts else plain for stage, part in keys])
    places = {pair: i for i, pair in enumerate(keys)}
    return _with(concept, table, [places[pair] for pair in zip(stages, passed, strict=True)])


def exchanged(keys: Concept, values: Concept) -> Concept:
    """A word whose keys are those of one concept and whose values are those of another, under the first one's name.

    Raises SemblantError when their rows differ in width or stages.
    """
    one, other = _split(keys), _split(values)
    if one.shape != other.shape or _stages(keys) != _stages(values):
        raise SemblantError(
            f"{keys.word} has rows {tuple(one.shape)} and {values.word} {tuple(other.shape)}; only words of one shape "
            "and the same stages can exchange keys and values"
        )
    return _with(keys, torch.cat([one[:, :, :1], other[:, :, 1:]], 2), _stages(keys))


def substituted(
    concept: Concept, class_row: Float[Tensor, " dim"], stages: set[int], part: Part | None = None
) -> Concept:
    """The word with the class word's row in some stages, for keys, for values, or (None) for both.

    Raises SemblantError for a stage that the concept lacks.
    """
    rows = _split(concept).clone()
    if not stages <= set(range(len(rows))):
        raise SemblantError(
            f"{concept.word} has stages 0 to {len(rows) - 1}; got {', '.join(map(str, sorted(stages)))}"
        )
    parts = slice(None) if part is None else slice(0, 1) if part == "key" else slice(1, 2)
    for stage in stages:
        rows[stage, :, parts] = class_row
    return _with(concept, rows, _stages(concept))


def _rows(concept: Concept) -> Tensor:
    rows = concept.tensors.get("rows")
    if rows is None:
        raise SemblantError(f"{concept.word} was learned by {concept.method}, which learns no rows of a word")
    return rows


def _stages(concept: Concept) -> list[int]:
    return concept.stages or [0] * 1000


def _split(concept: Concept) -> Tensor:
    rows = _rows(concept)
    return rows if rows.shape[2] == 2 else rows.expand(-1, -1, 2, -1, -1)


def _with(concept: Concept, rows: Tensor, stages: list[int]) -> Concept:
    return replace(concept, tensors={**concept.tensors, "rows": rows.contiguous()}, stages=stages)
