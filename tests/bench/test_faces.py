"""Boxes of the detector of drawn faces, brought back to the pixels of the picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from semblant.backbones.faces import Face
from semblant.backbones.judges import Detector
from semblant.bench.faces import drawn_faces


class Fixed(Detector):
    """Finds the same two faces in every picture."""

    def detect(self, images: Any, most: int = 4) -> list[list[Face]]:
        assert images.shape == (1, 3, 128, 128)
        points = ((0.0, 0.0),) * 5
        return [[Face((40, 40, 56, 56), 0.9, points), Face((-8, 32, 64, 96), 0.8, points)]]


@pytest.fixture
def network() -> Detector:
    torch.manual_seed(0)
    made: nn.Module = Fixed((4, 4, 4, 4))
    assert isinstance(made, Detector)
    return made


def test_a_square_picture_is_only_scaled(network: Detector) -> None:
    large, small = drawn_faces(Image.new("RGB", (256, 256)), network)
    assert large.box == (0, 64, 128, 192) and small.box == (80, 80, 112, 112)
    assert large.head and small.head


def test_padding_is_taken_off_again_and_boxes_end_at_the_edge(network: Detector) -> None:
    # A picture 128 wide and 256 high is padded by 64 on the left and right, then halved.
    large, small = drawn_faces(Image.new("RGB", (128, 256)), network)
    assert large.box == (0, 64, 64, 192) and small.box == (16, 80, 48, 112)
