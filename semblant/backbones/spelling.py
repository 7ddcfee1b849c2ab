"""How the installed transformers names the weights of text encoders."""

from __future__ import annotations

from functools import cache

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


@cache
def text_root(projected: bool = False) -> str:
    """What weights' names inside CLIP's text encoder begin with: `text_model.`, or nothing in newer versions. The
    second one of Stable Diffusion XL is `projected`."""
    sizes = {"vocab_size": 4, "hidden_size": 4, "intermediate_size": 4}
    config = CLIPTextConfig(**sizes, num_hidden_layers=1, num_attention_heads=1)
    with torch.device("meta"):
        network = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    return "text_model." if next(iter(network.state_dict())).startswith("text_model.") else ""


def text_roots() -> dict[str, str]:
    """The same by the beginning of canonical names: `text`, `text_2`."""
    return {"text": text_root(), "text_2": text_root(projected=True)}
