"""Names of the layers of Stable Diffusion XL's U-Net as it was first published, and in diffusers.

Blocks are numbered through there: `input_blocks.4.1.proj_in` is `down_blocks.1.attentions.0.proj_in`. XL has two layers
in each block, which is what the numbers go by.
"""

from __future__ import annotations

import re

_PER_BLOCK = 3
"""Numbers that one block takes: two layers, and what makes features smaller, or on the way up a third layer."""
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_FRAME = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_SCALING = {"downsamplers": (2, "0.op"), "upsamplers": (2, "2.conv")}
"""The number inside a block of what makes features smaller or larger, and its name."""


def to_sgm(name: str) -> str | None:
    """A layer's name in diffusers as it was first published; None for what XL does not have."""
    for new, old in _FRAME.items():
        if name == new or name.startswith(f"{new}."):
            rest = name.removeprefix(new).removeprefix(".")
            rest = _RESNET.get(rest, rest)
            return f"{old}.{rest}" if rest else old
    found = _BLOCK.fullmatch(name)
    if found is None:
        return None
    way, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first, blocks = _PER_BLOCK * block, "input_blocks" if way == "down" else "output_blocks"
    start = first + 1 if way == "down" else first
    if kind in _SCALING:
        number, named = _SCALING[kind]
        return f"{blocks}.{start + number}.{named}" if rest == "conv" else None
    if kind == "resnets":
        return f"{blocks}.{start + layer}.0.{_RESNET[rest]}" if rest in _RESNET else None
    return f"{blocks}.{start + layer}.1.{rest}"
