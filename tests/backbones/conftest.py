"""One small base for the tests of this layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature, miniature_xl


@pytest.fixture(scope="session")
def base() -> Base:
    """A random base with seven cross- and seven self-attention sites."""
    return miniature()


@pytest.fixture
def x() -> torch.Tensor:
    """Two latents."""
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def sd1(layouts: Any) -> Base:
    """A small base in the form of Stable Diffusion 1."""
    return layouts.base_like("sd-1")


@pytest.fixture(scope="session")
def sd2(layouts: Any) -> Base:
    """A small base in the form of Stable Diffusion 2 that predicts v."""
    return layouts.base_like("sd-2", "v_prediction")


@pytest.fixture(scope="session")
def xl() -> Base:
    """A tiny base in the form of Stable Diffusion XL."""
    return miniature_xl()
