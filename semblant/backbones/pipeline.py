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
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        plain = view.text([text for text in prompts for _ in range(num_images_per_prompt)])
        null = view.text(
            [text or "" for text in (negatives * len(prompts))[: len(prompts)] for _ in range(num_images_per_prompt)]
        )
        lent.update(conditional=plain, null=null)
        with torch.no_grad():
            encodings = view.encodings(plain)
            return encodings, view.encodings(null) if do_classifier_free_guidance else None

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not lent:
            return args, kwargs
        x, t = args[0], torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"])
        n = len(lent["conditional"])
        both = len(x) == 2 * n
        context = lent["null"] + lent["conditional"] if both else lent["conditional"]
        moment = Moment.of(t.reshape(-1).expand(n).long())
        moment = moment.both_halves() if both else moment
        call = Call(moment, view.prepare(context, moment), edits, chooser)
        return args, {**kwargs, "cross_attention_kwargs": {"moment": call}}

    hook = pipeline.unet.register_forward_pre_hook(before, with_kwargs=True)
    pipeline.encode_prompt = encode_prompt

    def take_off() -> None:
        hook.remove()
        pipeline.encode_prompt = inner

    return take_off
