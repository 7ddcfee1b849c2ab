"""Facts: the share of what the prompt says that the picture shows, according to an attribute reader.

Only facts that the prompt names count, as the caption grammar reads them; a prompt that names none has no score. One
number 0..1: the mean over pictures of each picture's share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from semblant.backbones.judges import Judges
from semblant.metrics.detection import AT_ONCE, look
from semblant.world.captions import read


@torch.no_grad()
def facts_shown(images: Any, prompts: Sequence[str], judges: Judges) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Per picture, what the reader sees of every fact, and the facts that its prompt names. One text per picture."""
    seen = look(images, judges)
    known = judges.attributes.values
    named = {prompt: {f: v for f, v in read(prompt).facts.items() if v in known.get(f, ())} for prompt in set(prompts)}
    parts = zip(seen.images.split(AT_ONCE), seen.frames.split(AT_ONCE), strict=True)
    shown = [reading for images, frames in parts for reading in judges.attributes.read(images, frames)]
    return [(reading, named[prompt]) for reading, prompt in zip(shown, prompts, strict=True)]


def facts_held(images: Any, prompts: Sequence[str], judges: Judges) -> list[dict[str, bool]]:
    """Per picture, for every fact its prompt names, whether it holds. `prompts` has one text per picture."""
    return [
        {fact: reading[fact] == value for fact, value in named.items()}
        for reading, named in facts_shown(images, prompts, judges)
    ]


def share_held(held: Sequence[dict[str, bool]]) -> float | None:
    """Mean share of the named facts that hold; None when no prompt names a fact."""
    shares = [sum(facts.values()) / len(facts) for facts in held if facts]
    return sum(shares) / len(shares) if shares else None


def share_by_fact(held: Sequence[dict[str, bool]]) -> dict[str, float]:
    """For every fact that some prompt names, the share of those pictures in which it holds."""
    found: dict[str, list[bool]] = {}
    for facts in held:
        for fact, value in facts.items():
            found.setdefault(fact, []).append(value)
    return {fact: sum(values) / len(values) for fact, values in sorted(found.items())}
