"""Custom Diffusion: a subject as one new word and the keys and values of cross-attention.

Kumari et al., 2022. arXiv 2212.04488
Learns   keys' and values' matrices of cross-attention, and the row of a word before the class word
Loss     denoising error on resized pictures whose prompts tell of it + the same on pictures of the class
Leaves   every other weight and word as it was
Notes    The paper retrieves real class pictures by their captions; here the base makes them, its second way. The code
         keeps the gradient from what all prompts begin with (`detach_start`), counts the loss where a shrunk picture
         lies only, and sums that loss over channels while it averages the class pictures'; we average both.
         Changes of several concepts used at once add up; `merged` solves for one set of weights, as the paper does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, Patch
from semblant.backbones.site import Site
from semblant.data import augmentation
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.methods.method import Card, FittingMethod
from semblant.patches.weights import Offsets, attention_weights
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
from semblant.training.merging import merged_offsets
from semblant.training.words import learned_word

FAR, NEAR = ("a far away ", "very small "), ("zoomed in ", "close up ")
"""What a prompt begins with when its picture was shrunk much, or enlarged (released code)."""
SMALL = 0.6
"""Pictures shrunk below this are said to be (released code)."""


@dataclass(frozen=True)
class CustomDiffusion(FittingMethod):
    """One subject as a modifier word, and as keys and values."""

    steps: int = 250
    """Updates (paper, for one subject; the released configuration runs 300, faces 750)."""
    lr: float = 8e-5
    """Learning rate of AdamW (paper; 1e-5 times its 8 pictures. Released code, for faces: half of it)."""
    weight_decay: float = 1e-2
    """Decay of AdamW (torch's default, in the released code). What decays is the change, not the weight."""
    clip: float = 1.0
    """Largest gradient norm (diffusers' script)."""
    batch: int = 4
    """Pictures of the subject per update, and as many of its class (paper: 8 in all)."""
    targets: tuple[str, ...] = ("to_k", "to_v")
    """Matrices of cross-attention that are changed (paper; `to_q` and `to_out.0` too is the code's other choice)."""
    train_word: bool = True
    """Whether the new word's row is learned beside them (paper)."""
    identifier: str = "ktn"
    """The rare word whose rows the new word starts at (released code)."""
    detach_start: bool = True
    """Whether keys and values of the start token pass no gradient (released code)."""
    prompt: str = "photo of a {}"
    """Training prompt; {} becomes "[V] class", and "class" for class pictures (released code)."""
    prior_weight: float = 1.0
    """Weight of the class pictures' loss (paper). 0 leaves them out."""
    prior_count: int = 200
    """Class pictures that the base makes before it learns (paper: 200 retrieved ones)."""
    prior_steps: int = 50
    """Sampling steps of a class picture (diffusers' default)."""
    prior_guidance: float = 7.5
    """Guidance scale of class pictures (diffusers' default)."""
    resize: bool = True
    """Whether pictures are shrunk or enlarged, and their prompts say so (paper)."""
    shrink: float = 0.66
    """Chance of shrinking instead of enlarging (diffusers' script; released code: two of three)."""
    small: tuple[float, float] = (0.33, 1.0)
    """Sides of shrunk pictures on their grey canvas (released code: from a third on)."""
    large: tuple[float, float] = (1.2, 1.4)
    """How many times pictures are enlarged before a piece is cut out (released code)."""
    flip: float = 0.5
    """Chance of a mirrored picture (released code)."""
    mask_loss: bool = False
    """Whether the error counts inside the subject's own mask too, not just where its picture lies."""
    views: int = 128
    """Augmented views of the pictures, made and encoded once before the updates draw from them."""
    stop_window: int = 180
    """Steps over which the loss has to have settled, N; it never stops before so many (DVAR, for Custom Diffusion)."""

    card: ClassVar[Card] = Card(
        title="Multi-Concept Customization of Text-to-Image Diffusion",
        authors="Nupur Kumari, Bingliang Zhang, Richard Zhang, Eli Shechtman, Jun-Yan Zhu",
        year=2022,
        arxiv="2212.04488",
        family="finetune",
        needs="four to twenty pictures of a subject",
        bases=("sd-1", "sd-2", "sdxl", "embedded"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    shares_base: ClassVar[bool] = False

    def learner(self, base: Base, subject: Subject, generator: torch.Generator) -> FinetuningLearner:
        """Keys, values and word, and the class pictures beside which they learn. Raises SemblantError for unknown
        targets, and for sizes that cannot be."""
        prompt = with_word(self.prompt)
        if self.resize and not (len(self.small) == 2 and 0 < self.small[0] <= self.small[1] <= 1):
            raise SemblantError(
                f"small is two numbers, the least and the largest, above 0 and at most 1; got {self.small}"
            )
        if self.resize and not (len(self.large) == 2 and 1 <= self.large[0] <= self.large[1]):
            raise SemblantError(f"large is two numbers, the least and the largest, 1 or more; got {self.large}")
        weights = attention_weights(base, self.targets, ("cross",))
        whole = tuple(Image.new("L", image.size, 255) for image in subject.images)
        return FinetuningLearner(
            base,
            subject if self.mask_loss else replace(subject, masks=whole),
            NamedClass(base, self.identifier, subject.class_word, learned=self.train_word),
            {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()},
            lambda offsets: [Offsets(offsets), *([DetachedStart()] if self.detach_start else [])],
            templates=[prompt],
            optimiser=Optimiser("adamw", lr=self.lr, weight_decay=self.weight_decay, clip=self.clip),
            prior=prior_of(self, base, subject.class_word, generator),
            steps=self.steps,
            generator=generator,
            augment=self.augment,
            views=self.views,
            batch=self.batch,
            mask_loss=True,
        )

    def concept_patches(self, base: Base, concept: Concept) -> Sequence[Patch]:
        """The word, and the changed keys and values, both at the concept's strength."""
        return [modified_class(base, concept), Offsets(learned_weights(base, concept), concept.strength)]

    def augment(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
        """A picture and its mask, mirrored and resized by chance, and the words that tell of its size."""
        draw = lambda: float(torch.rand((), generator=generator))
        image, moved = augmentation.flip(image, mask, generator, self.flip)
        words: Sequence[str] = ("",)
        if self.resize and draw() < self.shrink:
            size = self.small[0] + (self.small[1] - self.small[0]) * draw()
            words = FAR if size < SMALL else words
            image, moved = augmentation.canvas(image, moved, generator, (size, size), (1.0, 1.0), canvas="grey")
        elif self.resize:
            words = NEAR
            image, moved = augmentation.enlarge(image, moved, generator, self.large)
        assert moved is not None
        return image, moved, words[int(draw() * len(words))]


class DetachedStart(AttentionPatch):
    """Keys and values of the start token, which is the same in every prompt, teach cross-attention nothing."""

    def rewrite(self, site: Site, moment: Moment, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same numbers, without gradient at the first token."""
        if site.kind != "cross":
            return q, k, v
        k, v = (torch.cat([t[:, :, :1].detach(), t[:, :, 1:]], 2) for t in (k, v))
        return q, k, v


def modified_class(base: Base, concept: Concept) -> LearnedWord:
    """The concept's word: its modifier before the class word; at strength 0 the modifier is the rare word it was."""
    start = named_class(base, concept.settings["identifier"], concept.class_word)
    if "rows" in concept.tensors:
        return learned_word(base, concept, start)
    return LearnedWord(concept.word, start[None, None, None], start)


def merged(base: Base, concepts: Sequence[Concept], captions: Sequence[str]) -> list[Patch]:
    """Patches with which several concepts share one set of weights: each one's word is read as it learned it,
    the words of `captions` (some 200) as near to the base as can be. Raises SemblantError for unlike targets, others
    than keys and values, and where there is nothing to merge or to keep."""
    words = [modified_class(base, concept) for concept in concepts]
    changes = [Offsets(learned_weights(base, concept), concept.strength) for concept in concepts]
    return [*words, merged_offsets(base, words, changes, captions, ("{}", "photo of a {}"))]
