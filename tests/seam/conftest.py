"""One small base for all; that nothing changes it is what the tests are about."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature


@pytest.fixture(scope="session")
def base() -> Base:
    """A random base with seven cross- and seven self-attention sites."""
    return miniature()


@pytest.fixture
def latents() -> Callable[..., Tensor]:
    """`latents(rows, seed)`: normal noise of the base's size."""
    return lambda rows, seed=0: torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
