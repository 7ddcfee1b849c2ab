"""LoRA-DreamBooth: a subject as a rare word and low-rank changes of attention.

Ruiz et al., 2022. arXiv 2208.12242 (the loss); Hu et al., 2021. arXiv 2106.09685 (low-rank changes)
Learns   two thin factors per attention matrix: W becomes W + alpha / rank * up @ down, up = 0 at first (LoRA Eq. 3)
Loss     denoising error on "a photo of [V] class" + weight x the same on the base's own pictures of the class (Eq. 2)
Leaves   the rare word, and every base weight, as it was
Notes    DreamBooth itself moves every weight of the U-Net. Settings are those of the script in diffusers
         (train_dreambooth_lora.py), which leaves prior preservation to the user; the paper always has it, so it is on.
         In prompts the concept's word reads as "[V] class", and at strength 0 it is just that on the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.patch import Patch
from semblant.backbones.site import Kind
from semblant.data import augmentation
from semblant.data.subject import Subject
from semblant.methods.method import Card, FittingMethod
from semblant.patches.weights import LowRank, attention_weights, low_rank_start, text_attention_weights
from semblant.patches.words import LearnedWord
from semblant.training.concepts import Concept
from semblant.training.finetuning import (
    FinetuningLearner,
    NamedClass,
    learned_weights,
    named_class,
    prior_of,
    with_word,
)
from semblant.training.learner import Optimiser

KINDS: dict[str, tuple[Kind, ...]] = {"all": ("self", "cross"), "self": ("self",), "cross": ("cross",)}


@dataclass(frozen=True)
class LoRADreamBooth(FittingMethod):
    """One subject as "[V] class" and low-rank weights."""

    steps: int = 500
    """Updates (diffusers' example)."""
    lr: float = 1e-4
    """Learning rate of AdamW (diffusers' example)."""
    weight_decay: float = 1e-2
    """Decay of AdamW (diffusers' default)."""
    clip: float = 1.0
    """Largest gradient norm (diffusers' default)."""
    batch: int = 1
    """Pictures of the subject per update, and as many of its class (paper and diffusers' example)."""
    rank: int = 4
    """Rank of every change (diffusers' default; LoRA finds 1 to 8 enough)."""
    alpha: float = 4.0
    """A change counts alpha / rank times (LoRA Sec. 4.1; diffusers keeps alpha at the rank, and the factor at 1)."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Matrices of an attention layer that are changed (diffusers' default)."""
    sites: Literal["all", "self", "cross"] = "all"
    """Attention layers of the U-Net that are changed (diffusers: all)."""
    train_text: bool = False
    """Whether the text encoder's attention is changed too (an option of diffusers and of the paper)."""
    identifier: str = "sks"
    """The rare word [V] (common use; the paper draws rare characters). Concepts used together need one each."""
    prompt: str = "a photo of {}"
    """Training prompt; {} becomes "[V] class", and "class" for class pictures (diffusers' example)."""
    prior_weight: float = 1.0
    """Weight of the class pictures' loss, lambda in Eq. 2 (paper). 0 leaves them out."""
    prior_count: int = 200
    """Class pictures that the base makes before it learns (diffusers' example; paper: about 1000, or fewer)."""
    prior_steps: int = 50
    """Sampling steps of a class picture (diffusers' default)."""
    prior_guidance: float = 7.5
    """Guidance scale of class pictures (diffusers' default)."""
    flip: float = 0.0
    """Chance of a mirrored picture (diffusers: none)."""
    mask_loss: bool = False
    """Whether the denoising error counts inside the subject's mask only (an option of cloneofsimo/lora)."""
    views: int = 128
    """Mirrored views of the pictures, encoded once before the updates draw from them."""
    stop_window: int = 440
    """Steps over which the loss has to have settled, N; it never stops before so many (DVAR, for DreamBooth's LoRA)."""
    stop_ratio: float = 0.4
    """Settled is a loss whose variance over the last N steps is below this share of that over all steps, alpha (DVAR,
    for DreamBooth's LoRA)."""

    card: ClassVar[Card] = Card(
        title="DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation",
        authors="Nataniel Ruiz, Yuanzhen Li, Varun Jampani, Yael Pritch, Michael Rubinstein, Kfir Aberman",
        year=2022,
        arxiv="2208.12242",
        family="finetune",
        needs="three to five pictures of a subject",
        bases=("sd-1", "sd-2", "sdxl", "embedded"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    shares_base: ClassVar[bool] = False

    def learner(self, base: Base, subject: Subject, generator: torch.Generator) -> FinetuningLearner:
        """The factors, and the class pictures beside which they learn. Raises SemblantError for unknown targets."""
        prompt = with_word(self.prompt)
        weights = attention_weights(base, self.targets, KINDS[self.sites])
        if self.train_text:
            weights |= text_attention_weights(base)
        return FinetuningLearner(
            base,
            subject,
            NamedClass(base, self.identifier, subject.class_word, learned=False),
            low_rank_start(weights, self.rank, generator),
            lambda factors: [LowRank.of(factors, self.alpha / self.rank)],
            templates=[prompt],
            optimiser=Optimiser("adamw", lr=self.lr, weight_decay=self.weight_decay, clip=self.clip),
            prior=prior_of(self, base, subject.class_word, generator),
            steps=self.steps,
            generator=generator,
            augment=self.augment if self.flip else None,
            views=self.views,
            batch=self.batch,
            mask_loss=self.mask_loss,
        )

    def concept_patches(self, base: Base, concept: Concept) -> Sequence[Patch]:
        """The word as "[V] class", and the changes at the concept's strength."""
        rows = named_class(base, self.identifier, concept.class_word)
        factors = learned_weights(base, concept, ".up", ".down")
        return [
            LearnedWord(concept.word, rows[None, None, None], rows, strength=concept.strength),
            LowRank.of(factors, concept.strength * self.alpha / self.rank),
        ]

    def augment(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A picture and its mask, mirrored by chance."""
        image, mirrored = augmentation.flip(image, mask, generator, self.flip)
        assert mirrored is not None
        return image, mirrored
