"""The interface of a method, and the card that says where it comes from."""

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

    def learner(self, base: Base, subject: Subject, generator: torch.Generator) -> Learner:
        """What learns the subject. Methods that do not fit raise TypeError."""
        raise TypeError(f"{type(self).__name__} does not learn from pictures")

    def concept_patches(self, base: Base, concept: Concept) -> Sequence[Patch]:
        """What to attach to the base so that the concept's word means its subject."""
        raise TypeError(f"{type(self).__name__} makes no concepts")
