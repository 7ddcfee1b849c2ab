"""Lending patches to a diffusers pipeline, for people who sample there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from semblant.backbones.base import Base
from semblant.backbones.context import Context
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, WordsPatch
from semblant.backbones.processor import Call
from semblant.errors import SemblantError


def lend(pipeline: Any, view: Base) -> Callable[[], None]:
    """Make a pipeline read its prompts through a view's words, and attend through its attention patches.

    `view` is a patched view of `Base.wrap(pipeline)`. Returns a function that takes everything off again. Raises
    SemblantError for patches that a pipeline's own loop cannot follow (weights, features, trajectory).
    """
    strangers = [type(p).__name__ for p in view.patches if not isinstance(p, WordsPatch | AttentionPatch)]
    if strangers:
        raise SemblantError(f"{', '.join(strangers)} cannot act inside a pipeline; sample with semblant.sample instead")
    lent: dict[str, Context] = {}
    inner = pipeline.encode_prompt
    edits = view.attached(AttentionPatch)
    chooser = tuple(w for w in view.attached(WordsPatch) if "contexts" in w.hooks())

    def encode_prompt(
        prompt: Any,
        device: Any = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Any = None,
        *rest: Any,
        **more: Any,
    ) -> tuple[torch.Tensor | None, ...]:
        count = num_images_per_prompt
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        refused = (negatives * len(prompts))[: len(prompts)]
        plain = view.text([text for text in prompts for _ in range(count)])
        # A pipeline of XL takes no negative prompt for zeros, and encodes an empty one.
        null = view.text([text or "" for text in refused for _ in range(count)], zeros=negative_prompt is None)
        lent.update(conditional=plain, null=null)
        with torch.no_grad():
            return _encoded(view, plain, null if do_classifier_free_guidance else None)

    def encode_prompts(prompt: Any, prompt_2: Any = None, *rest: Any, **more: Any) -> tuple[torch.Tensor | None, ...]:
        """As pipelines of XL call it, which could give its two text encoders different prompts."""
        for name, own, other in (
            ("prompt_2", prompt, prompt_2),
            ("negative_prompt_2", more.get("negative_prompt"), more.pop("negative_prompt_2", None)),
        ):
            if other is not None and other != own:
                raise SemblantError(f"both text encoders read one prompt while words are lent; leave {name} out")
        return encode_prompt(prompt, *rest, **more)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # A base that shares the U-Net says itself what its calls read.
        if not lent or "moment" in (kwargs.get("cross_attention_kwargs") or {}):
            return args, kwargs
        x, t = args[0], torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"])
        n = len(lent["conditional"])
        both = len(x) == 2 * n
        context = lent["null"] + lent["conditional"] if both else lent["conditional"]
        moment = Moment.of(t.reshape(-1).expand(n).long())
        moment = moment.both_halves() if both else moment
        prepared = view.prepare(context, moment)
        given = {**kwargs, "cross_attention_kwargs": {"moment": Call(moment, prepared, edits, chooser)}}
        if prepared.pooled is not None:
            # A word may be another one at this timestep.
            told = kwargs["added_cond_kwargs"]
            given["added_cond_kwargs"] = {**told, "text_embeds": prepared.pooled.to(told["text_embeds"])}
        return args, given

    hook = pipeline.unet.register_forward_pre_hook(before, with_kwargs=True)
    pipeline.encode_prompt = encode_prompts if view.told_sizes else encode_prompt

    def take_off() -> None:
        hook.remove()
        pipeline.encode_prompt = inner

    return take_off


def _encoded(view: Base, plain: Context, null: Context | None) -> tuple[torch.Tensor | None, ...]:
    """What a pipeline's `encode_prompt` answers: features of both halves and, for XL, prompts as wholes."""
    site = view.cross_sites()[0]
    read = [
        None if half is None else view.prepare(half, Moment.of(torch.zeros(len(half), dtype=torch.long)))
        for half in (plain, null)
    ]
    features = tuple(None if half is None else half.read(site, "key") for half in read)
    pooled = tuple(None if half is None else half.pooled for half in read)
    return (*features, *pooled) if view.told_sizes else features
