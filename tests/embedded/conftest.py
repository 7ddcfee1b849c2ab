"""What tests of training share: a tokenizer of all words, and a work folder with something to learn from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semblant.backbones.blueprint import Tokenizer
from semblant.backbones.vocabulary import word_tokenizer
from semblant.embedded import latents, presentations
from semblant.world.captions import PUNCTUATION, words


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return word_tokenizer([*words(), *PUNCTUATION])


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with one small shard of invented latents."""
    monkeypatch.setattr(latents, "SHARD", 8)
    monkeypatch.setattr(presentations, "SHARD", 8)
    folder = tmp_path / "latents"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "latents": torch.randn(8, 4, 8, 8, generator=generator).half(),
        "weights": torch.full((8, 1, 8, 8), 32, dtype=torch.uint8),
    }
    save_file(tensors, folder / "00000.safetensors", metadata={"shard": "0", latents.ORDER: latents.TWINS})
    return tmp_path
