"""The one attention processor: stock attention when nothing is attached, and the place where attention patches act."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from semblant.backbones.context import Prepared
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, WordsPatch
from semblant.backbones.site import Site
from semblant.errors import SemblantError
from semblant.ops.attention import attention_map


@dataclass(frozen=True)
class Call:
    """What travels with one call of the U-Net to every site."""

    labels: Moment
    prepared: Prepared
    edits: tuple[AttentionPatch, ...] = ()
    chooser: tuple[WordsPatch, ...] = ()
    """Words patches with a `contexts` hook."""


class SiteProcessor:
    """Attention at one site. Without a call in `moment` it is diffusers' own processor."""

    def __init__(self, site: Site) -> None:
        # The layer owns its processor; owned in return, its weights would outlive the network.
        self.site = replace(site, module=None)
        self.stock = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        moment: Call | None = None,
    ) -> Tensor:
        if moment is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if attention_mask is not None:
            raise SemblantError(f"attention layer {self.site.name} was given a mask, which patches cannot follow yet")
        call, labels = moment, moment.labels
        # In a twin of the network the layer is another module, with weights of its own.
        site = replace(self.site, module=attn)
        if site.kind == "cross":
            keys, values = call.prepared.read(site, "key"), call.prepared.read(site, "value")
            for patch in call.chooser:
                keys, values = patch.contexts(site, labels, keys, values)
        else:
            keys = values = hidden_states
        q, k, v = site.heads(attn.to_q(hidden_states)), site.keys(keys), site.values(values)
        for edit in call.edits:
            q, k, v = edit.rewrite(site, labels, q, k, v)
        out = self._attend(site, call, q, k, v)
        for edit in call.edits:
            out = edit.add(site, labels, q, out)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        if attn.residual_connection:
            projected = projected + hidden_states
        return projected / attn.rescale_output_factor

    def _attend(self, site: Site, call: Call, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        labels, scale = call.labels, site.module.scale
        biases = [b for edit in call.edits if "bias" in edit.hooks() and (b := edit.bias(site, labels)) is not None]
        bias = sum(biases[1:], biases[0][(None,) * (4 - biases[0].ndim)]) if biases else None
        readers = [e for e in call.edits if "reweight" in e.hooks() and e.reads(site, labels)]
        if not readers:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        weights = attention_map(q, k, scale, bias)
        for edit in readers:
            weights = edit.reweight(site, labels, weights)
        return weights @ v


def install(unet: Any, sites: tuple[Site, ...]) -> None:
    """Put a site processor on every attention layer; the U-Net computes what it did before.

    Layers that have one keep it. Raises SemblantError when a layer has a processor that does more than plain attention.
    """
    foreign = {
        type(p).__name__
        for p in unet.attn_processors.values()
        if type(p) not in (SiteProcessor, AttnProcessor, AttnProcessor2_0)
    }
    if foreign:
        raise SemblantError(
            f"the U-Net's attention layers already run {', '.join(sorted(foreign))}, which would be lost. Unload what "
            "put it there (an IP-Adapter, attention slicing, xformers), or call unet.set_default_attn_processor()."
        )
    if not all(isinstance(p, SiteProcessor) for p in unet.attn_processors.values()):
        unet.set_attn_processor({f"{site.name}.processor": SiteProcessor(site) for site in sites})


def verify(sites: tuple[Site, ...]) -> None:
    """Raise SemblantError when a site lost its processor, and patches would silently do nothing there."""
    for site in sites:
        if not isinstance(site.module.processor, SiteProcessor):
            raise SemblantError(
                f"attention layer {site.name} now runs {type(site.module.processor).__name__}: something changed the "
                "U-Net's attention processors after it was loaded as a base. Undo that, or call Base.wrap again."
            )
