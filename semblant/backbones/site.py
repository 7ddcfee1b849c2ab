"""Attention layers by name: where they are and in which order they run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from semblant.errors import SemblantError

Kind = Literal["self", "cross"]
BESIDE_THE_PROMPT = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""Settings of U-Nets that take more than a latent, a timestep and a prompt."""
XL_READS = ("addition_embed_type", "text_time")
"""The one of them that is known: Stable Diffusion XL reads a prompt as a whole, and the sizes of a picture."""


@dataclass(frozen=True)
class Site:
    """One attention layer of a U-Net."""

    name: str
    kind: Kind
    place: Literal["down", "mid", "up"]
    factor: int
    """How many times smaller than the latent its feature map is."""
    index: int
    """Position among the sites of its kind in execution order (down, mid, up)."""
    registered: int
    """Position in the order in which diffusers lists the sites (down, up, mid); foreign files count this way."""
    module: Any = field(repr=False, compare=False)

    def heads(self, x: Tensor) -> Tensor:
        """Split features [rows, tokens, heads * dim] into [rows, heads, tokens, dim]."""
        return x.unflatten(-1, (self.module.heads, -1)).transpose(1, 2)

    def keys(self, encodings: Tensor) -> Tensor:
        """Project encodings [rows, tokens, dim] to this layer's keys [rows, heads, tokens, dim]."""
        return self.heads(self.module.to_k(encodings))

    def values(self, encodings: Tensor) -> Tensor:
        """Project encodings [rows, tokens, dim] to this layer's values [rows, heads, tokens, dim]."""
        return self.heads(self.module.to_v(encodings))


def find_sites(unet: Any) -> tuple[Site, ...]:
    """Every attention layer of a diffusers U-Net, in execution order.

    Raises SemblantError for a U-Net with features that patches could not follow.
    """
    if found := unhandled(unet):
        raise SemblantError(
            f"this U-Net has {', '.join(found)}, which semblant does not handle. Bases in the form of Stable Diffusion "
            "1, 2 and XL work: text (in XL sizes too) as condition, self- and cross-attention by turns."
        )
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    levels = len(unet.config.block_out_channels)
    modules = dict(unet.named_modules())
    order = ("down", "mid", "up")
    registered: dict[str, int] = {}
    for name in names:
        kind = _kind(name)
        registered[name] = sum(1 for other in registered if _kind(other) == kind)
    counts = {"self": 0, "cross": 0}
    sites = []
    for name in sorted(names, key=lambda n: order.index(n.split("_")[0])):
        kind, place = _kind(name), name.split("_")[0]
        depth = levels - 1 if place == "mid" else int(name.split(".")[1])
        factor = 2 ** (levels - 1 - depth if place == "up" else depth)
        sites.append(Site(name, kind, place, factor, counts[kind], registered[name], modules[name]))  # type: ignore[arg-type]
        counts[kind] += 1
    return tuple(sites)


def unhandled(unet: Any) -> list[str]:
    """Features of a U-Net that a site cannot follow, in words; empty for the form of Stable Diffusion 1, 2 and XL."""
    config = unet.config
    found = [
        f"{name} = {value!r}"
        for name in BESIDE_THE_PROMPT
        if (value := getattr(config, name, None)) is not None and (name, value) != XL_READS
    ]
    if not isinstance(config.cross_attention_dim, int):
        found.append(f"cross_attention_dim = {config.cross_attention_dim!r}")
    if getattr(config, "attention_type", "default") != "default":
        found.append(f"attention_type = {config.attention_type!r}")
    if getattr(config, "dual_cross_attention", False):
        found.append("dual_cross_attention")
    modules = dict(unet.named_modules())
    layers = [
        (name.removesuffix(".processor"), modules[name.removesuffix(".processor")]) for name in unet.attn_processors
    ]
    checks = {
        "attention without a transformer block": lambda name, layer: not name.endswith(("attn1", "attn2")),
        "self-attention that reads the text": lambda name, layer: name.endswith("attn1") and layer.is_cross_attention,
        "cross-attention that reads no text": lambda name, layer: (
            name.endswith("attn2") and not layer.is_cross_attention
        ),
        "added keys and values": lambda name, layer: layer.added_kv_proj_dim is not None,
        "group norm in attention": lambda name, layer: layer.group_norm is not None,
        "spatial norm in attention": lambda name, layer: layer.spatial_norm is not None,
        "norm of the text in attention": lambda name, layer: bool(layer.norm_cross),
        "norms of queries or keys": lambda name, layer: layer.norm_q is not None or layer.norm_k is not None,
        "unscaled attention": lambda name, layer: not layer.scale_qk,
    }
    for feature, has in checks.items():
        if where := [name for name, layer in layers if has(name, layer)]:
            found.append(f"{feature} ({where[0]})")
    return found


def _kind(name: str) -> Kind:
    return "cross" if name.endswith("attn2") else "self"
