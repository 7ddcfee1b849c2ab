"""The interfaces of methods, and the card that says where one comes from."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from semblant.backbones.base import Base
from semblant.backbones.patch import Patch
from semblant.data.subject import Subject
from semblant.training.concepts import Concept
from semblant.training.learner import Learner
from semblant.training.stopping import Settling


@dataclass(frozen=True)
class Card:
    """Who published a method, what it needs, and how far ours is checked."""

    title: str
    authors: str
    year: int
    arxiv: str
    family: str
    needs: str
    """What the user gives, in a few words."""
    bases: tuple[str, ...]
    evidence: tuple[Literal["equations", "matches-code", "reproduced"], ...] = ("equations",)
    licence: str = ""
    """Licence of published weights, when it uses any."""


@dataclass(frozen=True)
class Method(ABC):
    """A frozen dataclass of the paper's settings; the docstring under each field says where its value comes from."""

    card: ClassVar[Card]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings found by experiment for a kind of base, by its architecture; `fit` applies them below the user's own."""

    shares_base: ClassVar[bool] = True
    """Whether several subjects can learn in one batch: not when what is learned acts on all rows, as weights do."""

    def learner(self, base: Base, subject: Subject, generator: torch.Generator) -> Learner:
        """What learns the subject. Methods that do not fit raise TypeError."""
        raise TypeError(f"{type(self).__name__} does not learn from pictures")

    def settling(self) -> Settling | None:
        """The rule by which learning may stop before its last step; None without one."""
        return None

    def concept_patches(self, base: Base, concept: Concept) -> Sequence[Patch]:
        """What to attach to the base so that the concept's word means its subject."""
        raise TypeError(f"{type(self).__name__} makes no concepts")


@dataclass(frozen=True)
class FittingMethod(Method):
    """A method that learns a subject from pictures, step by step. Its settings are followed by those of the loop."""

    early_stop: bool = False
    """Whether learning may stop before `steps`, once the loss on a few fixed draws of picture, noise, timestep and
    prompt has settled (DVAR, arXiv 2302.04841)."""
    stop_window: int = 310
    """Steps over which it has to have settled, N; it never stops before so many (DVAR, for Textual Inversion)."""
    stop_ratio: float = 0.15
    """Settled is a loss whose variance over the last N steps is below this share of that over all steps, alpha (DVAR,
    for Textual Inversion)."""

    def settling(self) -> Settling | None:
        """The rule of these settings. Raises SemblantError for a window or ratio that cannot be."""
        return Settling(self.stop_window, self.stop_ratio) if self.early_stop else None
