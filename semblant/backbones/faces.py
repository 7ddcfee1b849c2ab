"""Faces in pictures: what a detector reports, and the upright crop that other judges look at.

A `Square` is centre x, centre y, half its side, and the angle of the head: lengths as fractions of the picture's
width, the angle in radians, positive when the head leans to the right of the picture. A `Frame` is the square around a
head, then where its features are: the middle between eyes and mouth, and how far apart these are. Frames are plain
tensors, so that crops are differentiable with respect to the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semblant.errors import SemblantError

SIZE = 128
"""Side in pixels at which judges look at pictures."""

MARGIN, RISE = 1.6, 0.12
"""Side of a frame over the longer side of the face box, and how far it moves up in such sides: for hair and hats."""

TOWARDS_THE_MOUTH = 0.45
"""Where the middle of the features lies on the way from the eyes to the mouth."""

Square = Float[Tensor, "n 4"]
Frame = Float[Tensor, "n 7"]
WHOLE = (0.5, 0.45, 0.4, 0.0, 0.5, 0.5, 0.13)
"""The frame that stands in where no face is found: the middle of the picture, upright."""


@dataclass(frozen=True)
class Face:
    """One face that was found, in pixels of the picture it was found in."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    score: float
    """0..1, how sure the detector is."""
    landmarks: tuple[tuple[float, float], ...]
    """Left eye, right eye, nose, left and right mouth corner (left and right of the picture), each (x, y)."""

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return max(right - left, 0.0) * max(bottom - top, 0.0)


def frames_of(boxes: Float[Tensor, "n 4"], landmarks: Float[Tensor, "n 5 2"], side: float) -> Frame:
    """Frames of faces given by boxes (left, top, right, bottom) and landmarks in pixels of pictures `side` wide."""
    left, top, right, bottom = (boxes / side).unbind(-1)
    half = torch.maximum(right - left, bottom - top) * MARGIN / 2
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    across = landmarks[:, 1] - landmarks[:, 0] + landmarks[:, 4] - landmarks[:, 3]
    down = mouth - eyes
    # the face's own "right" is `across`, and `down` turned by a quarter: their sum is the steadier of the two
    right_hand = across + torch.stack([down[:, 1], -down[:, 0]], -1)
    angle = torch.atan2(right_hand[:, 1], right_hand[:, 0])
    rise = 2 * half / MARGIN * RISE
    x, y = (left + right) / 2 + rise * angle.sin(), (top + bottom) / 2 - rise * angle.cos()
    middle = torch.lerp(eyes, mouth, TOWARDS_THE_MOUTH) / side
    return torch.stack([x, y, half, angle, *middle.unbind(-1), down.norm(dim=-1) / side], -1)


def frame_of(face: Face | None, side: float) -> Frame:
    """The frame of one face (a batch of one), or `WHOLE` when there is none."""
    if face is None:
        return torch.tensor([WHOLE])
    return frames_of(torch.tensor([face.box]), torch.tensor([face.landmarks]), side)


def nearer(frames: Frame, near: float) -> Square:
    """Squares `near` times as wide around the middle of the head, which lies below that of a whole frame."""
    x, y, half, angle = frames[:, :4].unbind(-1)
    sink = half * (2 * RISE / MARGIN)
    return torch.stack([x - sink * angle.sin(), y + sink * angle.cos(), half * near, angle], -1)


def features(frames: Frame, wide: float) -> Square:
    """Squares around eyes, nose and mouth, half as wide as `wide` times the way from the eyes to the mouth: every face
    has them in the same place, whatever its hair."""
    x, y, apart = frames[:, 4:].unbind(-1)
    return torch.stack([x, y, apart * wide, frames[:, 3]], -1)


def shaken(squares: Square, by: tuple[float, float, float, float], generator: torch.Generator | None = None) -> Square:
    """Squares moved by shares of their half side, scaled and turned: `by` are standard deviations, of each number."""
    noise = torch.randn(squares.shape, generator=generator, device=squares.device if generator is None else "cpu")
    shake = noise.to(squares) * squares.new_tensor(by)
    half = squares[:, 2:3]
    moved = squares[:, :2] + shake[:, :2] * half
    return torch.cat([moved, half * shake[:, 2:3].exp(), squares[:, 3:] + shake[:, 3:]], 1)


def crops(
    images: Float[Tensor, "n channels height width"], frames: Square | Frame, size: int = 64
) -> Float[Tensor, "n channels {size} {size}"]:
    """What the squares, or those of heads in frames, show, turned upright; outside the picture its edge goes on."""
    x, y, half, angle = frames.to(images)[:, :4, None, None].unbind(1)
    steps = (torch.arange(size, device=images.device) + 0.5) * 2 / size - 1
    across, down = half * steps[None, None], half * steps[None, :, None]
    # frames speak of 0..1 across the picture, grids of -1..1
    places = (x + across * angle.cos() - down * angle.sin(), y + across * angle.sin() + down * angle.cos())
    grid = torch.stack(places, -1) * 2 - 1
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def face_crops(
    images: Float[Tensor, "n 3 s s"], frames: Frame, near: float, wide: float | None
) -> Float[Tensor, "n 3 64 64"]:
    """Faces as a judge looks at them: around the features where it knows how `wide`, else around the head."""
    return crops(images, features(frames, wide) if wide else nearer(frames, near))


def overlap(a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Intersection over union of boxes, row by row."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inside = (high - low).clamp_min(0).prod(-1)
    areas = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1)
    return inside / (areas - inside).clamp_min(1e-9)


def largest(faces: Sequence[Face]) -> Face | None:
    """The largest face, None when there is none."""
    return max(faces, key=lambda face: face.area, default=None)


def as_pictures(images: Any, size: int = SIZE) -> Float[Tensor, "n 3 {size} {size}"]:
    """Pictures as judges take them: float32 RGB in 0..1, `size` square.

    `images` is a tensor `n 3 h w` or `3 h w` in 0..1, one PIL picture, or a sequence of either. Pictures that are no
    squares are padded with their edges, never cut: a cut may remove the head. Raises SemblantError for anything else.
    """
    if isinstance(images, Tensor):
        images = [images] if images.ndim == 3 else list(images)
    elif hasattr(images, "convert"):
        images = [images]
    if not isinstance(images, Sequence) or not images:
        raise SemblantError(
            "no pictures were given; give PIL pictures or a tensor of shape [n, 3, height, width] in 0..1"
        )
    return torch.cat([_square(_as_tensor(image), size) for image in images])


def _as_tensor(image: Any) -> Float[Tensor, "1 3 h w"]:
    if hasattr(image, "convert"):
        import numpy as np

        image = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
        given = f"a tensor of shape {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise SemblantError(f"a picture is a PIL picture or a tensor of shape [3, height, width] in 0..1; got {given}")
    image = image.detach() if not image.requires_grad else image
    if not image.is_floating_point() or not math.isfinite(low := float(image.detach().min())):
        raise SemblantError(f"a picture has finite numbers in 0..1; got {image.dtype} with non-finite or whole numbers")
    if low < -0.01 or float(image.detach().max()) > 1.01:
        raise SemblantError(
            f"a picture has numbers in 0..1; got {low:.2f}..{float(image.detach().max()):.2f}. "
            "From -1..1 use (image + 1) / 2, from 0..255 image / 255"
        )
    return image.float().clamp(0, 1)[None]


def _square(image: Float[Tensor, "1 3 h w"], size: int) -> Float[Tensor, "1 3 size size"]:
    height, width = image.shape[-2:]
    side = max(height, width)
    if height != width:
        left, top = (side - width) // 2, (side - height) // 2
        image = F.pad(image, (left, side - width - left, top, side - height - top), mode="replicate")
    if side == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False, antialias=side > size).clamp(
        0, 1
    )
