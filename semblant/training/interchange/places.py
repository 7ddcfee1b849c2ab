"""Names of the layers that a LoRA may change in Stable Diffusion 1.x and 2.x, and how kohya's files spell them.

A place is `unet.` or `text.` and the layer's name in diffusers or transformers, where `text_model.` is left out, since
versions of transformers differ in it: `unet.mid_block.attentions.0.proj_in`, `text.encoder.layers.0.mlp.fc1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

from semblant.errors import FileProblem

Network = Literal["unet", "text"]

TEXT_MODEL = "text_model."
_ATTENTION = r"attn[12]\.to_[qkv]|attn[12]\.to_out\.0|ff\.net\.0\.proj|ff\.net\.2"
_UNET = re.compile(
    r"(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:"
    rf"attentions\.\d+\.(?:proj_in|proj_out|transformer_blocks\.\d+\.(?:{_ATTENTION}))|"
    r"resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)|(?:down|up)samplers\.0\.conv)|"
    r"conv_in|conv_out|time_embedding\.linear_[12]"
)
_TEXT = re.compile(r"encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])")
_WITH_UNDERSCORES = (
    "down_blocks up_blocks mid_block transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in conv_out "
    "conv_shortcut time_emb_proj time_embedding linear_1 linear_2 text_model self_attn q_proj k_proj v_proj out_proj"
).split()
"""Parts of names that have underscores of their own, so that not every underscore stands for a dot."""
_PARTS = re.compile(rf"(?:{'|'.join(_WITH_UNDERSCORES)}|[a-z]+\d*|\d+)(?=_|$)")
_KOHYA = re.compile(r"lora_(unet|te1?)_(.+)")
_XL = re.compile(
    r"^lora_te2_|^lora_unet_(?:input_blocks|middle_block|output_blocks|label_emb)_|^text_encoder_2\.|add_embedding"
)
"""Names that only a LoRA for Stable Diffusion XL has: its second text encoder, its U-Net's original names."""
_XL_WIDTH = 2048
_READS_TEXT = re.compile(r"unet\..+\.attn2\.to_[kv]|text\..+\.(?:self_attn\..+|mlp\.fc1)")
"""Layers whose input is as wide as text encodings."""


def place_of(network: Network, name: str) -> str | None:
    """The place of a layer by its name in diffusers or transformers; None for what is no such layer."""
    plain = name.removeprefix(TEXT_MODEL) if network == "text" else name
    return f"{network}.{plain}" if (_UNET if network == "unet" else _TEXT).fullmatch(plain) else None


def of_kohya(name: str) -> str | None:
    """The place that kohya's files call `lora_unet_...` or `lora_te_...`; None for what is no such layer."""
    found = _KOHYA.fullmatch(name)
    if found is None:
        return None
    dotted = ".".join(_PARTS.findall(found[2]))
    if dotted.replace(".", "_") != found[2]:
        return None
    return place_of("unet" if found[1] == "unet" else "text", dotted)


def to_kohya(place: str) -> str:
    """A place as kohya's files call it."""
    network, _, name = place.partition(".")
    start = "lora_unet_" if network == "unet" else "lora_te_text_model_"
    return start + name.replace(".", "_")


def refuse_xl(names: Iterable[str], file: str) -> None:
    """Raise FileProblem when names of tensors are those of a LoRA for Stable Diffusion XL."""
    if sign := next((name for name in names if _XL.search(name)), None):
        raise FileProblem(_no_xl(file, sign))


def width_of(downs: Mapping[str, Tensor], file: str) -> int | None:
    """Width of the text encodings that layers were made for, from their `down` matrices by place; None where no layer
    reads text. Raises FileProblem for several widths, and for that of Stable Diffusion XL."""
    widths = {down.shape[1]: place for place, down in downs.items() if _READS_TEXT.fullmatch(place)}
    if _XL_WIDTH in widths:
        raise FileProblem(_no_xl(file, f"{widths[_XL_WIDTH]} of width {_XL_WIDTH}"))
    if len(widths) > 1:
        listed = ", ".join(f"{width} ({place})" for width, place in widths.items())
        raise FileProblem(f"{file} fits no base: its layers read text encodings of several widths, {listed}")
    return next(iter(widths), None)


def _no_xl(file: str, sign: str) -> str:
    return f"{file} is a LoRA for Stable Diffusion XL (it changes {sign}), and XL is not supported yet"
