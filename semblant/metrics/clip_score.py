"""CLIP score: the cosine between a picture and its prompt, not scaled (CLIP-T; CLIPScore of arXiv 2104.08718 is 2.5
times it).

Placeholder tokens and names of people are read as "person": who it is, is not this measure's business. Nor is how much
weight a prompt gave its words, as in `(word:1.2)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from semblant.backbones.judges import Judges
from semblant.metrics.detection import AT_ONCE, look
from semblant.world.captions import read, unweighted

CLASS_WORD = "person"


def without_subject(prompt: str) -> str:
    """The prompt without weights, every placeholder token and every name in it replaced by the class word."""
    prompt = unweighted(prompt)
    reading = read(prompt)
    for token in reading.placeholders:
        prompt = prompt.replace(token, CLASS_WORD)
    for name in reading.names:
        prompt = re.sub(re.escape(name).replace(r"\ ", r"\s+"), CLASS_WORD, prompt, flags=re.IGNORECASE)
    # "a photo of a <maya> person" said it already
    return re.sub(rf"\b{CLASS_WORD}(\s+{CLASS_WORD})+\b", CLASS_WORD, prompt)


@torch.no_grad()
def clip_scores(images: Any, prompts: Sequence[str], judges: Judges) -> list[float]:
    """Cosine of each picture with its prompt, -1..1. `prompts` has one text per picture."""
    seen = look(images, judges)
    texts = list(dict.fromkeys(without_subject(prompt) for prompt in prompts))
    vectors = dict(zip(texts, judges.clip.texts(texts), strict=True))
    wanted = torch.stack([vectors[without_subject(prompt)] for prompt in prompts])
    parts = zip(seen.images.split(AT_ONCE), seen.frames.split(AT_ONCE), strict=True)
    found = torch.cat([judges.clip.images(images, frames) for images, frames in parts])
    return (found * wanted).sum(1).tolist()
