"""Textual Inversion: one word for what a few pictures show.

Gal et al., 2022. arXiv 2208.01618
Learns   the input row of one new word, starting at a coarse class word
Loss     denoising error (Eq. 2)
Leaves   every base weight and every other word as it was
Notes    The released code multiplies the learning rate by the batch size, and on Stable Diffusion adds the first
         position's embedding to the starting row; we do the first and start at the pure row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.moment import Moment
from semblant.backbones.patch import Patch
from semblant.data import augmentation
from semblant.data.subject import Subject
from semblant.data.templates import IMAGENET_TEMPLATES
from semblant.errors import SemblantError
from semblant.methods.method import Card, FittingMethod
from semblant.ops.losses import distance_to_start
from semblant.patches.words import class_word_table
from semblant.training.concepts import Concept
from semblant.training.expansion import FreeRows
from semblant.training.learner import Batch, Optimiser
from semblant.training.words import WordLearner, learned_word

_PAINTINGS = "a,a cropped,the,a clean,a dirty,a dark,a cool,a close-up,a bright,a good,a nice,a small,a weird,a large"
STYLE_TEMPLATES = (
    *(f"{which} painting in the style of {{}}" for which in _PAINTINGS.split(",")),
    *(f"a {what} in the style of {{}}" for what in ("rendering", "picture", "rendition")),
)
"""For a style (released code, its two repetitions left out)."""
TEMPLATES = {"object": IMAGENET_TEMPLATES, "style": STYLE_TEMPLATES}


@dataclass(frozen=True)
class TextualInversion(FittingMethod):
    """One subject as one word, or a few in a row."""

    steps: int = 5000
    """Updates (paper; the released configuration runs 6,100)."""
    lr: float = 5e-3
    """Learning rate of AdamW for one picture per update (paper and released code)."""
    scale_lr: bool = True
    """Whether the learning rate is multiplied by `batch` (released code)."""
    weight_decay: float = 1e-2
    """Decay of AdamW (released code: torch's default)."""
    batch: int = 2
    """Pictures per update (released configuration for Stable Diffusion; 4 for the paper's own base)."""
    num_vectors: int = 1
    """Rows that the word takes in a prompt (the paper also tries several)."""
    anchor_weight: float = 0.0
    """Weight of the squared distance to the starting row (released code, where it is 0)."""
    templates: Literal["object", "style"] = "object"
    """Training prompts: 27 for a thing or person, or those for a style (released code)."""
    flip: float = 0.5
    """Chance of a mirrored picture (released code)."""
    mask_loss: bool = False
    """Whether the denoising error counts inside the subject's mask only."""
    even_loss: bool = False
    """Whether every part of the schedule counts alike; as published nearly all of the error is where the least noise
    is."""
    views: int = 128
    """Mirrored views of the pictures, encoded once before the updates draw from them."""

    card: ClassVar[Card] = Card(
        title="An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion",
        authors="Rinon Gal, Yuval Alaluf, Yuval Atzmon, Or Patashnik, Amit H. Bermano, Gal Chechik, Daniel Cohen-Or",
        year=2022,
        arxiv="2208.01618",
        family="tokens",
        needs="three to five pictures of a subject or of a style",
        bases=("sd-1", "sd-2", "sdxl", "embedded"),
    )
    # benchmarks/flagship/tune.json, 400 steps on close-ups of three people of `tune`: identity gain .387 and .346 at
    # 0.0025 and 0.005, facts obeyed alike; .306 and .315 with `mask_loss` and `even_loss`.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"embedded": {"lr": 0.0025}}

    def learner(self, base: Base, subject: Subject, generator: torch.Generator) -> WordLearner:
        """The row or rows of the subject's word. Raises SemblantError for none."""
        if self.num_vectors < 1:
            raise SemblantError(f"a word takes 1 row or more; got num_vectors={self.num_vectors}")
        return AnchoredLearner(self, base, subject, generator)

    def concept_patches(self, base: Base, concept: Concept) -> Sequence[Patch]:
        """The word."""
        return [learned_word(base, concept)]

    def augment(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A picture and its mask, mirrored by chance."""
        image, mirrored = augmentation.flip(image, mask, generator, self.flip)
        assert mirrored is not None
        return image, mirrored


class AnchoredLearner(WordLearner):
    """Rows that denoise the subject, held near where they started as hard as asked."""

    def __init__(self, settings: TextualInversion, base: Base, subject: Subject, generator: torch.Generator) -> None:
        start = class_word_table(base, subject.class_word, (1, 1, 1, settings.num_vectors))
        super().__init__(
            base,
            subject,
            FreeRows(start),
            templates=TEMPLATES[settings.templates],
            optimiser=Optimiser(
                "adamw",
                lr=settings.lr * (max(settings.batch, 1) if settings.scale_lr else 1),
                weight_decay=settings.weight_decay,
            ),
            steps=settings.steps,
            generator=generator,
            augment=settings.augment,
            views=settings.views,
            batch=settings.batch,
            mask_loss=settings.mask_loss,
            even_loss=settings.even_loss,
        )
        self.start, self.anchor_weight = start, settings.anchor_weight

    def loss(self, moment: Moment, prediction: Tensor, batch: Batch) -> Float[Tensor, " rows"]:
        """Denoising error plus the weighted distance to the starting rows."""
        return super().loss(moment, prediction, batch) + self.anchor_weight * distance_to_start(self.table, self.start)
