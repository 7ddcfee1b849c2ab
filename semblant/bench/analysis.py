"""Pictures that show what a learned word does: where words look, what its rows carry, how they came about.

Figures of the analyses in SeFi-IDE (arXiv 2402.00631): attention maps per word, progressive adding of the word, keys of
one person with values of another; and of what a fit does from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from semblant.backbones.base import Base
from semblant.bench.chart import Line, chart
from semblant.bench.gaze import Gaze, overlay
from semblant.bench.runs import Step
from semblant.bench.sheet import sheet
from semblant.errors import SemblantError
from semblant.training.concepts import Concept, require_base
from semblant.training.surgery import SUB_STEPS, added_until, exchanged, substituted
from semblant.verbs import patches_of, sample


def attention(
    base: Base, prompt: str, concepts: Sequence[Concept], words: Sequence[str], **sampling: Any
) -> Image.Image:
    """A row for each concept, and one for its class word: the picture, then where it looked at each of the words.

    `prompt` holds `{}` where the concept's word goes; a concept's own column comes first. Raises SemblantError for a
    word that the prompt lacks.
    """
    _held(prompt)
    rows = []
    for concept in [*concepts, None]:
        own = concept.word if concept else concepts[0].class_word
        text = prompt.replace("{}", own)
        view = base.patched(*patches_of(base, [concept] if concept else []))
        found = view.text(text).rows[0].positions
        # Plain words are known in lower case, learned ones as they were written.
        places = {word: found.get(word) or found.get(word.lower()) for word in (own, *words)}
        missing = [word for word, at in places.items() if not at]
        if missing:
            raise SemblantError(f"the prompt {text!r} has no word {', '.join(missing)}; it has {', '.join(found)}")
        gaze = Gaze([{word: at for word, at in places.items() if at}])
        [picture] = sample(base, text, concepts=[concept] if concept else [], patches=gaze.patches(), **sampling)
        looks = [look for word in (own, *words) if (look := gaze.map(0, word)) is not None]
        label = f"{concept.word}, {concept.method}" if concept else own
        rows.append((label, [picture, *(overlay(picture, look) for look in looks)]))
    return sheet(rows, ["picture", "the subject's word", *words])


def adding(
    base: Base, prompt: str, concept: Concept, *, seeds: int = 2, first: int = 0, **sampling: Any
) -> Image.Image:
    """A row for each seed: the word in no part of the schedule, in the first, the first two, ..., in all ten.

    Guidance and latents are the same along a row, so what changes from one picture to the next is what one more part of
    the word adds.
    """
    _held(prompt)
    require_base(concept, base)
    class_row = base.token_row(concept.class_word)
    text = prompt.replace("{}", concept.word)
    columns = []
    for parts in range(SUB_STEPS + 1):
        word = added_until(concept, class_row, parts)
        columns.append(sample(base, text, concepts=[word], n=seeds, seed=first, **sampling))
    rows = [(f"seed {first + k}", [column[k] for column in columns]) for k in range(seeds)]
    return sheet(rows, [f"{parts} of {SUB_STEPS}" for parts in range(SUB_STEPS + 1)])


def exchange(
    base: Base, prompt: str, one: Concept, other: Concept, *, seeds: int = 4, first: int = 0, **sampling: Any
) -> Image.Image:
    """A row for each pairing of keys and values of two concepts, and with the class word's; a column for each seed."""
    _held(prompt)
    for concept in (one, other):
        require_base(concept, base)
    mixed, reverse = exchanged(one, other), exchanged(other, one)
    class_row = base.token_row(one.class_word)
    stages = set(range(len(one.tensors["rows"])))
    person = one.class_word
    # Two subjects may have been learned under one word, so rows are called by letters.
    pairings = (
        (f"A: {one.word}", one),
        ("keys of A, values of B", mixed),
        ("keys of B, values of A", reverse),
        (f"B: {other.word}", other),
        (f"keys of {person}, values of A", substituted(one, class_row, stages, "key")),
        (f"keys of A, values of {person}", substituted(one, class_row, stages, "value")),
    )
    rows = []
    for label, concept in pairings:
        text = prompt.replace("{}", concept.word)
        rows.append((label, sample(base, text, concepts=[concept], n=seeds, seed=first, **sampling)))
    return sheet(rows, [f"seed {first + k}" for k in range(seeds)])


def course(steps: Sequence[tuple[Step, Concept]], base: Base) -> str:
    """How long the rows of a word are, and how far from the class word's, over the steps that a run kept: means over
    stages, in lengths of the class word's row, as a drawing. Raises SemblantError for a word without rows."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for step, concept in steps:
        if "rows" not in concept.tensors:
            raise SemblantError(f"{concept.word} has no rows: {concept.method} changes weights of the base instead")
        if step is steps[0][0]:
            require_base(concept, base)
        class_row = base.token_row(concept.class_word).cpu()
        rows = concept.tensors["rows"].float().cpu()
        for part, name in enumerate(("keys", "values") if rows.shape[2] == 2 else ("rows",)):
            own = rows[:, :, part]
            for what, value in (("length", own), ("distance", own - class_row)):
                number = float((value.norm(dim=-1) / class_row.norm()).mean())
                lines.setdefault(f"{what} of {name}", []).append((step.step, number))
    return chart([Line(name, points) for name, points in lines.items()], "step", "in lengths of the class word's row")


def frontier(runs: Mapping[str, Sequence[Step]]) -> str:
    """Identity against prompt over the steps that runs kept, a line for each run, as a drawing. Raises SemblantError
    when no step has both."""
    lines = []
    for name, steps in runs.items():
        known = [(s, s.verdict.scores.get("prompt")) for s in steps if s.verdict is not None and s.identity is not None]
        points = [(prompt, step.identity or 0.0, str(step.step)) for step, prompt in known if prompt is not None]
        lines.append(Line(name, [(x, y) for x, y, _ in points], [label for _, _, label in points]))
    if not any(line.points for line in lines):
        raise SemblantError("no step has both an identity and a prompt that judges could measure")
    return chart(lines, "prompt: cosine between picture and prompt", "identity gain; numbers are steps")


def _held(prompt: str) -> None:
    if "{}" not in prompt:
        raise SemblantError(f"the prompt {prompt!r} has no {{}} where the subject's word goes")
