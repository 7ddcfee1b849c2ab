"""Transforms of pictures, under torchvision's names and with its meaning, for PIL images and float tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(Enum):
    """Ways of resizing, by the names that the scripts offer. All of them average what they shrink, as PIL does."""

    NEAREST = Image.Resampling.NEAREST
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    BOX = Image.Resampling.BOX
    HAMMING = Image.Resampling.HAMMING
    LANCZOS = Image.Resampling.LANCZOS


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, picture: Any) -> Any:
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Resize:
    """To a size (height, width), or the shorter side to one number and the longer in proportion, rounded down."""

    def __init__(
        self, size: int | Sequence[int], interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if isinstance(self.size, int):
            short = min(width, height)
            wanted = (int(self.size * width / short), int(self.size * height / short))
        else:
            wanted = (self.size[1], self.size[0])
        if wanted == picture.size:
            return picture
        return picture.resize(wanted, resample=self.interpolation.value)


class CenterCrop:
    """The square in the middle. Raises ValueError for a picture that is smaller."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        across, down = _spare(picture, self.size)
        left, top = round(across / 2), round(down / 2)
        return picture.crop((left, top, left + self.size, top + self.size))


class RandomCrop:
    """A square anywhere in the picture. Raises ValueError for a picture that is smaller."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        across, down = _spare(picture, self.size)
        if not (across or down):
            return picture
        top, left = (int(torch.randint(0, spare + 1, (1,))) for spare in (down, across))
        return picture.crop((left, top, left + self.size, top + self.size))


class RandomHorizontalFlip:
    """Mirrored with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, picture: Image.Image) -> Image.Image:
        mirrored = float(torch.rand(1)) < self.p
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


class ToTensor:
    """Bytes of a picture to a float tensor [channels, height, width] in 0..1."""

    def __call__(self, picture: Image.Image) -> Tensor:
        pixels = np.array(picture, dtype=np.uint8)
        channels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return torch.from_numpy(channels).permute(2, 0, 1).contiguous().float() / 255


class Normalize:
    """(value - mean) / std, channel by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, picture: Tensor) -> Tensor:
        mean, std = (torch.tensor(own, dtype=picture.dtype).view(-1, 1, 1) for own in (self.mean, self.std))
        return (picture - mean) / std


def _spare(picture: Image.Image, size: int) -> tuple[int, int]:
    """How many pixels a picture is wider and higher than a square."""
    width, height = picture.size
    if width < size or height < size:
        raise ValueError(f"a square of {size} pixels does not fit into a picture of {width}x{height}")
    return width - size, height - size
