"""The text encoders of a base in one file, in the original layout: CLIP in 1.x, OpenCLIP in 2.x, one of each in XL.

Shapes say how large they are; heads are 64 wide, and the activation follows from which of both it is. Names are
translated by diffusers' own converters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

XL = "conditioner.embedders."
"""How names of XL's text encoders begin; its refiner has OpenCLIP in the place of CLIP."""
REFINER = f"{XL}0.model."


@dataclass(frozen=True)
class Source:
    """Where a text encoder lies in a file, and what it is."""

    prefix: str
    open_clip: bool
    whole: bool = False
    """Whether the last layer of OpenCLIP, and its projection, are read too."""

    def config(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Sizes, as transformers spells them. Raises KeyError where tensors lack."""
        inner = {name.removeprefix(self.prefix): s for name, s in shapes.items() if name.startswith(self.prefix)}
        return _open_clip(inner, self.whole) if self.open_clip else _clip(inner)

    def empty(self, shapes: Mapping[str, tuple[int, ...]], tokenizer: Any) -> nn.Module:
        """The network, with random weights."""
        config = CLIPTextConfig(
            **self.config(shapes),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return CLIPTextModelWithProjection(config) if self.whole else CLIPTextModel(config)

    def convert(self, network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights by transformers' names."""
        if self.open_clip:
            return dict(convert_open_clip_checkpoint(network, weights, prefix=self.prefix))
        return dict(convert_ldm_clip_checkpoint(weights))


CLIP = Source("cond_stage_model.transformer.", open_clip=False)
OPEN_CLIP = Source("cond_stage_model.model.", open_clip=True)
BOTH = (Source(f"{XL}0.transformer.", open_clip=False), Source(f"{XL}1.model.", open_clip=True, whole=True))


def sources(names: Iterable[str]) -> tuple[Source, ...]:
    """The text encoders in a file with tensors of these names; none when it has none, or half of XL's."""
    listed = list(names)
    for found in ((CLIP,), (OPEN_CLIP,), BOTH):
        if all(any(name.startswith(source.prefix) for name in listed) for source in found):
            return found
    return ()


def _clip(inner: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Some files write CLIP's names without `text_model`."""
    inner = {name.removeprefix("text_model."): shape for name, shape in inner.items()}
    table = inner["embeddings.token_embedding.weight"]
    return {
        **_common(table, inner["embeddings.position_embedding.weight"]),
        "intermediate_size": inner["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count(inner, r"encoder\.layers\.(\d+)\."),
        "hidden_act": "quick_gelu",
    }


def _open_clip(inner: Mapping[str, tuple[int, ...]], whole: bool) -> dict[str, Any]:
    """In 2.x the last layer is not read, and left out."""
    made = {
        **_common(inner["token_embedding.weight"], inner["positional_embedding"]),
        "intermediate_size": inner["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": count(inner, r"transformer\.resblocks\.(\d+)\.") - (not whole),
        "hidden_act": "gelu",
    }
    return {**made, "projection_dim": inner["text_projection"][1]} if whole else made


def _common(table: tuple[int, ...], positions: tuple[int, ...]) -> dict[str, Any]:
    width = table[1]
    return {
        "vocab_size": table[0],
        "hidden_size": width,
        "projection_dim": width,
        "max_position_embeddings": positions[0],
        "num_attention_heads": max(1, width // 64),
    }


def count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number that names hold where `pattern` has its group. Raises KeyError without any."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    if not found:
        raise KeyError(f"nothing is called {pattern}")
    return 1 + max(found)
