"""Names of the layers that a LoRA may change in Stable Diffusion 1.x, 2.x and XL, and how kohya's files spell them.

A place is `unet.`, `text.` or, for the second text encoder of XL, `text_2.` and the layer's name in diffusers or
transformers, where `text_model.` is left out, since versions of transformers differ in it:
`unet.mid_block.attentions.0.proj_in`, `text.encoder.layers.0.mlp.fc1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal

from torch import Tensor

from semblant.errors import FileProblem
from semblant.training.concepts import XL_WIDTHS
from semblant.training.interchange.sgm import to_sgm

Network = Literal["unet", "text", "text_2"]

TEXT_MODEL = "text_model."
_ATTENTION = r"attn[12]\.to_[qkv]|attn[12]\.to_out\.0|ff\.net\.0\.proj|ff\.net\.2"
_UNET = re.compile(
    r"(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:"
    rf"attentions\.\d+\.(?:proj_in|proj_out|transformer_blocks\.\d+\.(?:{_ATTENTION}))|"
    r"resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)|(?:down|up)samplers\.0\.conv)|"
    r"conv_in|conv_out|(?:time|add)_embedding\.linear_[12]"
)
_TEXT = re.compile(r"encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])")
_WITH_UNDERSCORES = (
    "down_blocks up_blocks mid_block transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in conv_out "
    "conv_shortcut time_emb_proj time_embedding add_embedding linear_1 linear_2 text_model self_attn "
    "q_proj k_proj v_proj out_proj"
).split()
"""Parts of names that have underscores of their own, so that not every underscore stands for a dot."""
_PARTS = re.compile(rf"(?:{'|'.join(_WITH_UNDERSCORES)}|[a-z]+\d*|\d+)(?=_|$)")
_KOHYA = re.compile(r"lora_(unet|te|te1|te2)_(.+)")
_STARTS: dict[str, Network] = {"unet": "unet", "te": "text", "te1": "text", "te2": "text_2"}
_FIRST = re.compile(r"(?:input_blocks|middle_block|output_blocks|out|time_embed|label_emb)_\d")
"""How a layer of XL's U-Net begins in kohya's files, which have its first names."""
_XL = re.compile(
    r"^lora_te2_|^lora_unet_(?:input_blocks|middle_block|output_blocks|label_emb)_|^text_encoder_2\.|add_embedding"
)
"""Names that only a LoRA for Stable Diffusion XL has: its second text encoder, its U-Net's original names."""
_READS_TEXT = re.compile(r"unet\..+\.attn2\.to_[kv]|text(?:_2)?\..+\.(?:self_attn\..+|mlp\.fc1)")
"""Layers whose input is as wide as text encodings."""


def place_of(network: Network, name: str) -> str | None:
    """The place of a layer by its name in diffusers or transformers; None for what is no such layer."""
    plain = name if network == "unet" else name.removeprefix(TEXT_MODEL)
    return f"{network}.{plain}" if (_UNET if network == "unet" else _TEXT).fullmatch(plain) else None


def of_kohya(name: str) -> str | None:
    """The place that kohya's files call `lora_unet_...`, `lora_te_...`, `lora_te2_...`; None for what is no such
    layer."""
    found = _KOHYA.fullmatch(name)
    if found is None:
        return None
    network, rest = _STARTS[found[1]], found[2]
    if network == "unet" and _FIRST.match(rest):
        # Of two names for one layer that makes features larger, this one is where there is no attention beside it.
        return _first_names().get(re.sub(r"^(output_blocks_\d+)_1_conv$", r"\1_2_conv", rest))
    dotted = ".".join(_PARTS.findall(rest))
    return place_of(network, dotted) if dotted.replace(".", "_") == rest else None


def to_kohya(place: str, xl: bool = False) -> str:
    """A place as kohya's files call it. Those for XL have the first names of its U-Net's layers."""
    network, _, name = place.partition(".")
    if network != "unet":
        start = "lora_te_" if not xl else "lora_te1_" if network == "text" else "lora_te2_"
        return start + TEXT_MODEL.replace(".", "_") + name.replace(".", "_")
    first = to_sgm(name) if xl else None
    return "lora_unet_" + (first or name).replace(".", "_")


@cache
def _first_names() -> dict[str, str]:
    """Places by the first names of XL's layers, with underscores: which of these are dots is not told by the name."""
    made: dict[str, str] = {}
    for name in _xl_layers():
        first = to_sgm(name)
        if first is not None and (place := place_of("unet", name)) is not None:
            made[first.replace(".", "_")] = place
    return made


def _xl_layers() -> Iterable[str]:
    """Every layer that XL's U-Net could have, in diffusers' names: three blocks, up to three layers, ten times
    attention in a layer."""
    resnet = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
    inner = [f"{attn}.{part}" for attn in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")]
    inner += ["ff.net.0.proj", "ff.net.2"]
    attention = ["proj_in", "proj_out", *(f"transformer_blocks.{i}.{part}" for i in range(10) for part in inner)]
    yield from ("conv_in", "conv_out", *(f"{kind}_embedding.linear_{i}" for kind in ("time", "add") for i in (1, 2)))
    layers = {"resnets": resnet, "attentions": attention}
    levels = [(f"{way}_blocks.{block}", count) for way, count in (("down", 2), ("up", 3)) for block in range(3)]
    for level, count in [*levels, ("mid_block", 2)]:
        yield from (f"{level}.{kind}.{i}.{part}" for kind, of in layers.items() for i in range(count) for part in of)
        yield from (f"{level}.{kind}.0.conv" for kind in ("downsamplers", "upsamplers") if kind[0] == level[0])


def is_xl(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of a LoRA for Stable Diffusion XL; some of its LoRAs have none."""
    return any(_XL.search(name) for name in names)


def is_xl_by_layers(downs: Mapping[str, Tensor]) -> bool:
    """Whether layers, by place, are those of XL: of what it alone has, or as wide as its text encodings."""
    wide = any(down.shape[1] == sum(XL_WIDTHS) for place, down in downs.items() if _READS_TEXT.fullmatch(place))
    return wide or any(place.startswith(("text_2.", "unet.add_embedding.")) for place in downs)


def width_of(downs: Mapping[str, Tensor], file: str, xl: bool = False) -> int | None:
    """Width of the text encodings that layers were made for, from their `down` matrices by place; None where no layer
    tells it. For XL (`xl`) that is the width of both text encoders together. Raises FileProblem for several widths.
    """
    widths: dict[str, dict[int, str]] = {}
    for place, down in downs.items():
        if _READS_TEXT.fullmatch(place):
            widths.setdefault(place.partition(".")[0] if xl else "all", {})[int(down.shape[1])] = place
    for found in widths.values():
        if len(found) > 1:
            listed = ", ".join(f"{width} ({place})" for width, place in found.items())
            raise FileProblem(f"{file} fits no base: its layers read text encodings of several widths, {listed}")
    one = {network: next(iter(found)) for network, found in widths.items()}
    if not xl:
        return one.get("all")
    both = one["text"] + one["text_2"] if one.keys() >= {"text", "text_2"} else None
    if None not in (both, one.get("unet")) and both != one["unet"]:
        raise FileProblem(
            f"{file} fits no base: its text encoders are {one['text']} and {one['text_2']} wide, and its U-Net reads "
            f"{one['unet']}"
        )
    return one.get("unet", both)
