"""Where a picture looks at a word while it is sampled, and how to show that over the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from semblant.backbones.moment import Moment
from semblant.backbones.patch import Patch, TrajectoryPatch
from semblant.patches.attention import Recorder

INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Anchors of the heat's colours, evenly spaced from cold to hot (after matplotlib's inferno)."""
VEIL = 0.72
"""How much of the picture the hottest place hides."""


class Gaze(TrajectoryPatch):
    """Sums the maps that a `Recorder` leaves, for chosen words of every row, over steps, sites and heads."""

    def __init__(self, positions: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """`positions[row][word]` are the token positions of a word in the prompt of a row."""
        self.positions = positions
        self.looks: list[dict[str, Tensor]] = [{} for _ in positions]
        self.count = 0

    def patches(self) -> list[Patch]:
        """What to attach: the recorder of cross-attention maps and this."""
        return [Recorder(), self]

    def after(self, x: Tensor, stepped: Tensor, moment: Moment) -> Tensor:
        """Take the maps of the step that was just made; the latent stays as it is."""
        height, width = x.shape[-2:]
        for recorded in moment.recorded("map"):
            # Guided calls hold the null rows first and the conditional ones last.
            mean = recorded[-len(self.positions) :].float().mean(1)
            factor = round((height * width / mean.shape[1]) ** 0.5)
            grid = -(-height // factor), -(-width // factor)
            for row, (words, looks) in enumerate(zip(self.positions, self.looks, strict=True)):
                for word, at in words.items():
                    look = mean[row, :, list(at)].sum(-1).reshape(1, 1, *grid)
                    look = F.interpolate(look, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
                    looks[word] = looks.get(word, torch.zeros_like(look)) + look
            self.count += 1
        return stepped

    def map(self, row: int, word: str) -> Float[Tensor, "h w"] | None:
        """The mean share of attention that each place gives a word, 0..1; None when the word was not there."""
        look = self.looks[row].get(word)
        return None if look is None or not self.count else look / self.count


def overlay(picture: Image.Image, look: Float[Tensor, "h w"]) -> Image.Image:
    """The picture, greyed, under the map of a word in the colours of heat; the hottest place is its own 1."""
    heat = (look - look.min()) / (look.max() - look.min()).clamp_min(1e-12)
    heat = F.interpolate(heat[None, None], size=picture.size[::-1], mode="bicubic", align_corners=False)[0, 0]
    values = heat.clamp(0, 1).numpy()
    anchors = np.asarray(INFERNO, dtype=np.float64)
    places = np.linspace(0, 1, len(anchors))
    colours = np.stack([np.interp(values, places, anchors[:, channel]) for channel in range(3)], axis=-1)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    shown = (0.35 + (VEIL - 0.35) * values)[..., None]
    return Image.fromarray(np.rint(grey * (1 - shown) + colours * shown).astype(np.uint8))
