"""How many times a loss is enlarged before it is differentiated in float16, where small gradients would become zero.

Micikevicius et al., 2018. arXiv 1710.03740, Sec. 3.2. Numbers as in torch's GradScaler.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

START, PATIENT = 2.0**16, 2000
"""The first scale, and after how many steps that all went well it is doubled."""


@dataclass
class Scale:
    """The scale of now: halved when a gradient is not finite while its loss is, doubled after `PATIENT` good steps."""

    factor: float = 1.0
    steps: int = 0
    """Good steps since it last changed."""

    @staticmethod
    def of(*types: torch.dtype) -> Scale:
        """The first scale of a run that computes in one of these types, or whose base is held in one: 1, which never
        changes, but for float16."""
        return Scale(START if torch.float16 in types else 1.0)

    @staticmethod
    def read(facts: Mapping[str, Any]) -> Scale:
        """What `facts` said."""
        return Scale(**facts)

    def facts(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def holds(self, losses: Sequence[float], gradients: Sequence[Sequence[Tensor | None]]) -> bool:
        """Whether these gradients may be used; if not, the scale is smaller now and the step has to be taken again.

        There is one loss for each learner, and for each its gradients. Where a loss is not finite, or nothing is
        enlarged any more, a smaller scale would not help: they hold.
        """
        sound = [own for loss, own in zip(losses, gradients, strict=True) if math.isfinite(loss)]
        if self.factor == 1 or not sound:
            return True
        if all(bool(own.isfinite().all()) for each in sound for own in each if own is not None):
            self.steps += 1
            if self.steps == PATIENT:
                self.factor, self.steps = self.factor * 2, 0
            return True
        self.factor, self.steps = self.factor / 2, 0
        logger.info(
            "gradients are too large for float16 enlarged; the loss is enlarged %g times from now on", self.factor
        )
        return False
