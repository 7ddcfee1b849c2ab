"""The table behind the laws: every method with settings small enough for a tiny base. A method without a row fails.

To add a method, add a row:

    Row("masactrl", MasaCtrl(...), subject=..., learns={"..."}, neutral=...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from semblant.backbones.loading import miniature
from semblant.data.subject import Subject
from semblant.methods.finetune.custom_diffusion import CustomDiffusion
from semblant.methods.finetune.lora_dreambooth import LoRADreamBooth
from semblant.methods.method import Method
from semblant.methods.tokens.sefi_ide import SeFiIDE
from semblant.methods.tokens.textual_inversion import TextualInversion

WORD, CLASS_WORD = "<maya>", "person"


def one_picture() -> Subject:
    """One picture of somebody, with a mask in its middle."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (4, 2, 12, 14))
    return Subject((Image.fromarray(pixels),), WORD, CLASS_WORD, masks=(mask,))


def class_word(prompt: str) -> str:
    """At neutral strength a learned word is the class word."""
    return prompt.replace(WORD, CLASS_WORD)


def named_class(identifier: str) -> Callable[[str], str]:
    """At neutral strength the word of a fine-tuned base is a rare word and the class word."""
    return lambda prompt: prompt.replace(WORD, f"{identifier} {CLASS_WORD}")


def weights(kinds: str, projections: str, *endings: str) -> frozenset[str]:
    """Names of attention weights, followed by what is learned of each."""
    sites = [site.name for site in miniature().sites if site.kind in kinds]
    return frozenset(
        f"unet.{name}.{part}.weight{end}" for name in sites for part in projections.split() for end in endings
    )


@dataclass(frozen=True)
class Row:
    """One method, and what the laws need to know of it."""

    name: str
    """As commands spell it."""
    method: Method
    """With few steps: fitting twice and all pictures together take at most two seconds."""
    learns: frozenset[str]
    """Names of the concept's tensors: all that may differ after fitting."""
    subject: Callable[[], Subject] = one_picture
    neutral: Callable[[str], str] = class_word
    """The prompt that the base alone turns into the picture which the concept makes at strength 0."""
    prompt: str = f"a photo of {WORD} on the beach"
    skips: Mapping[str, str] = field(default_factory=dict)
    """Law -> why it does not apply."""


ROWS = (
    Row(
        "custom-diffusion",
        CustomDiffusion(steps=2, views=2, batch=1, lr=0.03, identifier="cup", prior_count=1, prior_steps=1),
        learns=weights("cross", "to_k to_v", "") | {"rows"},
        neutral=named_class("cup"),
    ),
    Row(
        "lora-dreambooth",
        # The first step moves `up` only: it is 0, so `down` has no gradient yet.
        LoRADreamBooth(steps=2, lr=0.03, prior_count=1, prior_steps=1),
        learns=weights("self cross", "to_q to_k to_v to_out.0", ".up", ".down"),
        neutral=named_class("sks"),
    ),
    Row(
        "sefi-ide",
        SeFiIDE(steps=2, stages=2, views=2, calibration_draws=1, attention_size=8),
        learns=frozenset({"rows"}),
    ),
    Row("textual-inversion", TextualInversion(steps=2, views=2), learns=frozenset({"rows"})),
)
