"""How the installed transformers names the weights of a text encoder."""

from __future__ import annotations

from functools import cache

import torch
from transformers import CLIPTextConfig, CLIPTextModel


@cache
def text_root() -> str:
    """What weights' names inside CLIP's text encoder begin with: `text_model.`, or nothing in newer versions."""
    sizes = {"vocab_size": 4, "hidden_size": 4, "intermediate_size": 4}
    with torch.device("meta"):
        network = CLIPTextModel(CLIPTextConfig(**sizes, num_hidden_layers=1, num_attention_heads=1))
    return "text_model." if next(iter(network.state_dict())).startswith("text_model.") else ""
