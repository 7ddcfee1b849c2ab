"""Carried over: facts of the training pictures that turn up where the prompt names another value.

A word that learned where its subject was photographed brings that background along, whatever the prompt asks for. Facts
are read by the attribute judge; a training set shows the value that most of its pictures show. Where that is "none",
nothing can come along: a hat that is asked for and missing is disobedience.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from semblant.backbones.judges import Judges
from semblant.metrics.detection import AT_ONCE, look
from semblant.world.captions import read


@torch.no_grad()
def carried_over(images: Any, prompts: Sequence[str], trained_on: Any, judges: Judges) -> dict[str, list[bool]]:
    """For every fact that prompts name otherwise than the training pictures show it, and every picture of such prompts:
    whether it came along all the same. `prompts` has one text per picture."""
    shown = {
        fact: Counter(reading[fact] for reading in _readings(trained_on, judges)).most_common(1)[0][0]
        for fact in judges.attributes.values
    }
    found: dict[str, list[bool]] = {}
    for reading, prompt in zip(_readings(images, judges), prompts, strict=True):
        for fact, value in read(prompt).facts.items():
            if shown.get(fact) != "none" and value in judges.attributes.values.get(fact, ()) and value != shown[fact]:
                found.setdefault(fact, []).append(reading[fact] == shown[fact])
    return found


def _readings(images: Any, judges: Judges) -> list[dict[str, str]]:
    seen = look(images, judges)
    parts = zip(seen.images.split(AT_ONCE), seen.frames.split(AT_ONCE), strict=True)
    return [reading for pictures, frames in parts for reading in judges.attributes.read(pictures, frames)]
