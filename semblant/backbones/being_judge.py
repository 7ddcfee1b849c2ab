"""The judge of animals and things: what a picture shows, and which one of its kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semblant.backbones.trunks import Places, Trunk

NONE = "none"
"""The kind of what is in a picture without an animal or thing."""


class Beings(nn.Module):
    """Reads the facts of the animal or thing in a picture, one softmax over the values of each, and tells it from
    others of its kind by a unit vector. "kind" is the first fact, and one of its values is `NONE`."""

    def __init__(
        self, values: dict[str, Sequence[str]], widths: Sequence[int], stem: int, hidden: int, dim: int
    ) -> None:
        super().__init__()
        self.values = {fact: tuple(options) for fact, options in values.items()}
        self.config: dict[str, Any] = {
            "values": {fact: list(options) for fact, options in self.values.items()},
            **{"widths": list(widths), "stem": stem, "hidden": hidden, "dim": dim},
        }
        self.trunk = Trunk(widths, [*[1] * (len(widths) - 1), 0], stem=stem)
        self.places = Places(widths[-1], hidden, narrow=32)
        self.facts = nn.Linear(hidden, sum(map(len, self.values.values())))
        self.who = nn.Linear(hidden, dim)

    def look(self, images: Float[Tensor, "n 3 s s"]) -> tuple[dict[str, Tensor], Float[Tensor, "n dim"]]:
        """Logits per fact, and the vector before it is made a unit one."""
        seen = F.relu(self.places(self.trunk(images)[-1]))
        logits = self.facts(seen).split([len(options) for options in self.values.values()], dim=1)
        return dict(zip(self.values, logits, strict=True)), self.who(seen)

    def forward(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n dim"]:
        """Which one of its kind, as a unit vector."""
        return F.normalize(self.look(images)[1], dim=-1)

    @torch.no_grad()
    def read(self, images: Float[Tensor, "n 3 s s"]) -> list[dict[str, str]]:
        """The likeliest value of every fact, per picture."""
        best = {fact: logits.argmax(1).tolist() for fact, logits in self.look(images)[0].items()}
        return [{fact: self.values[fact][index[row]] for fact, index in best.items()} for row in range(len(images))]
