"""The judge of animals and things: what a picture shows, and which one of its kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semblant.backbones.faces import Square, crops
from semblant.backbones.trunks import Conv, Places, Trunk, together

NONE = "none"
"""The kind of what is in a picture without an animal or thing."""


class Beings(nn.Module):
    """Finds the animal or thing in a picture, looks at it from near by, reads its facts, one softmax over the values of
    each, and tells it from others of its kind by a unit vector. "kind" is the first fact, and one of its values is
    `NONE`."""

    SIDE = 64
    """Pixels of the picture in which it is found, and of the crop in which it is looked at."""

    def __init__(
        self, values: dict[str, Sequence[str]], finder: Sequence[int], near: Sequence[int], hidden: int, dim: int
    ) -> None:
        super().__init__()
        self.values = {fact: tuple(options) for fact, options in values.items()}
        self.config: dict[str, Any] = {
            "values": {fact: list(options) for fact, options in self.values.items()},
            **{"finder": list(finder), "near": list(near), "hidden": hidden, "dim": dim},
        }
        self.finder = Trunk(finder, [0, *[1] * (len(finder) - 2), 0])
        self.lateral = nn.ModuleList(Conv(width, 24, kernel=1, act=False) for width in finder[1:])
        self.there = nn.Conv2d(24, 1, 1)
        self.near = Trunk(near, [*[1] * (len(near) - 1), 0])
        self.from_picture = Places(finder[-1], hidden // 2, narrow=16)
        self.from_near = Places(near[-1], hidden, narrow=32)
        self.facts = nn.Linear(hidden + hidden // 2, sum(map(len, self.values.values())))
        self.who = nn.Linear(hidden + hidden // 2, dim)

    def look(self, images: Float[Tensor, "n 3 s s"]) -> tuple[dict[str, Tensor], Float[Tensor, "n dim"]]:
        """Logits per fact, and the vector before it is made a unit one."""
        seen, there = self.find(images)
        return self.look_at(images, seen, square_of(there))

    def find(self, images: Float[Tensor, "n 3 s s"]) -> tuple[Tensor, Float[Tensor, "n 16 16"]]:
        """What it sees of the whole picture, and logits of whether the animal's or thing's box covers each place."""
        small = F.interpolate(images, size=(self.SIDE, self.SIDE), mode="bilinear", align_corners=False, antialias=True)
        levels = self.finder(small)
        return levels[-1], self.there(together(self.lateral, levels[1:]))[:, 0].float()

    def look_at(
        self, images: Float[Tensor, "n 3 s s"], seen: Tensor, squares: Square
    ) -> tuple[dict[str, Tensor], Float[Tensor, "n dim"]]:
        """The same as `look`, told where to."""
        near = self.near(crops(images, squares, self.SIDE))[-1]
        both = F.relu(torch.cat([self.from_picture(seen), self.from_near(near)], 1))
        logits = self.facts(both).split([len(options) for options in self.values.values()], dim=1)
        return dict(zip(self.values, logits, strict=True)), self.who(both)

    def forward(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n dim"]:
        """Which one of its kind, as a unit vector."""
        return F.normalize(self.look(images)[1], dim=-1)

    @torch.no_grad()
    def read(self, images: Float[Tensor, "n 3 s s"]) -> list[dict[str, str]]:
        """The likeliest value of every fact, per picture."""
        best = {fact: logits.argmax(1).tolist() for fact, logits in self.look(images)[0].items()}
        return [{fact: self.values[fact][index[row]] for fact, index in best.items()} for row in range(len(images))]


WIDER = 1.1
"""How much wider than its box what is looked at is."""


def square_of(there: Float[Tensor, "n h w"]) -> Square:
    """An upright square around the box that covers the places: its middle is theirs, and a box is as wide as the square
    root of twelve times how far its places scatter."""
    weight = there.sigmoid().square().flatten(1) + 1e-6
    weight = weight / weight.sum(1, keepdim=True)
    side = there.shape[-1]
    steps = (torch.arange(side, device=there.device) + 0.5) / side
    y, x = (place.flatten() for place in torch.meshgrid(steps, steps, indexing="ij"))
    middle = [(weight * place).sum(1) for place in (x, y)]
    scatter = [(weight * (place - m[:, None]).square()).sum(1) for place, m in zip((x, y), middle, strict=True)]
    half = (3 * torch.stack(scatter, 1).amax(1)).sqrt().clamp(0.05, 0.7) * WIDER
    return torch.stack([*middle, half, torch.zeros_like(half)], 1)
