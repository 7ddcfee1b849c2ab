"""Lending patches to a diffusers pipeline, for people who sample there."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.context import Context
from semblant.backbones.moment import Guidance, Moment
from semblant.backbones.patch import AttentionPatch, Patch, WordsPatch
from semblant.backbones.processor import Call
from semblant.errors import SemblantError

HALVES: dict[Guidance, str] = {"conditional": "", "null": "negative_"}
"""The halves of a guided call, in the order in which `encode_prompt` answers, and how its arguments for them begin."""
Answer = tuple[Tensor | None, ...]
"""What `encode_prompt` gives: the encodings of both halves and, for XL, their prompts as wholes."""


def lend(pipeline: Any, view: Base) -> Callable[[], None]:
    """Make a pipeline read its prompts through a view's words, and attend through its attention patches.

    `view` is a patched view of `Base.wrap(pipeline)`. Several may be lent at once: their words work together, and of
    words of one name the one lent last holds. Returns a function that takes everything of this view off again. Raises
    SemblantError for patches that a pipeline's own loop cannot follow (weights, features, trajectory).
    """
    strangers = [type(p).__name__ for p in view.patches if not isinstance(p, WordsPatch | AttentionPatch)]
    if strangers:
        raise SemblantError(f"{', '.join(strangers)} cannot act inside a pipeline; sample with semblant.sample instead")
    current = vars(pipeline).get("encode_prompt")
    lending = current if isinstance(current, Lending) and current.pipeline() is pipeline else Lending(pipeline)
    own = view.patched()
    lending.attach(own)
    # Whoever keeps the function that takes a view off keeps no networks by it.
    lender, lent = weakref.ref(lending), weakref.ref(own)

    def take_off() -> None:
        there, on = lender(), lent()
        if there is not None and on is not None:
            there.detach(on)

    return take_off


class Lending:
    """What stands in a pipeline's place of `encode_prompt` while views are lent to it, and tells the calls of its U-Net
    what they read. The pipeline owns it; neither it nor the U-Net is owned in return, so that they go together."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = weakref.ref(pipeline)
        self.replaced = vars(pipeline).get("encode_prompt")
        self.__signature__ = inspect.signature(type(pipeline).encode_prompt.__get__(pipeline))
        self.views: tuple[Base, ...] = ()
        self.told: list[Told] = []
        self.unhook = weakref.finalize(self, _hook(pipeline.unet, weakref.WeakMethod(self.before)).remove)
        pipeline.encode_prompt = self

    def attach(self, view: Base) -> None:
        """Lend a view beside those that are lent."""
        self.views = (*self.views, view)
        self._join()

    def detach(self, view: Base) -> None:
        """Take a view off; with the last one the pipeline is left as it was found."""
        self.views = tuple(other for other in self.views if other is not view)
        self.told = [told for told in self.told if not told.holds(view.patches)]
        self._join()
        if self.views:
            return
        self.unhook()
        pipeline = self.pipeline()
        if pipeline is not None and vars(pipeline).get("encode_prompt") is self:
            del pipeline.encode_prompt
            if self.replaced is not None:
                pipeline.encode_prompt = self.replaced

    def _join(self) -> None:
        first, *more = self.views or (None,)
        self.view: Base | None = reduce(lambda joint, view: joint.patched(*view.patches), more, first)
        self.edits = () if self.view is None else self.view.attached(AttentionPatch)
        words = () if self.view is None else self.view.attached(WordsPatch)
        self.chooser = tuple(word for word in words if "contexts" in word.hooks())

    def __call__(self, *args: Any, **kwargs: Any) -> Answer:
        """Encode prompts as the pipeline does, those that are text through the lent views."""
        call = self.__signature__.bind(*args, **kwargs)
        contexts = {} if self.view is None else _contexts(self.view, call.arguments)
        encodings = {half: self._give(half, context, call.arguments) for half, context in contexts.items()}
        answer: Answer = self._plain()(*call.args, **call.kwargs)
        words = any(row.words for context in contexts.values() for row in context.rows)
        if words or (contexts and (self.edits or self.chooser)):
            self._tell(answer, contexts, encodings)
        return answer

    def _plain(self) -> Any:
        pipeline: Any = self.pipeline()
        if pipeline is None:
            raise SemblantError("this pipeline is a copy of one that is gone; lend what that one had to the copy")
        return self.replaced or type(pipeline).encode_prompt.__get__(pipeline)

    def __deepcopy__(self, memo: dict[int, Any]) -> Lending:
        """Itself: it is what the hook on the copied U-Net asks."""
        return self

    def _tell(self, answer: Answer, contexts: dict[Guidance, Context], encodings: dict[Guidance, Tensor]) -> None:
        """Keep what was encoded for the calls that read it."""
        wholes = answer[2:] or (None, None)
        for half, features, pooled in zip(HALVES, answer[:2], wholes, strict=True):
            if half not in contexts and features is not None:
                # What the caller encoded is read as it is.
                encodings[half] = features.clone()
                contexts[half] = Context.of(encodings[half], pooled=None if pooled is None else pooled.clone())
        holders = [weakref.ref(tensor) for tensor in answer if tensor is not None]
        self.told = [*(told for told in self.told if told.lives), Told(contexts, encodings, holders)]

    @torch.no_grad()
    def _give(self, half: Guidance, context: Context, arguments: dict[str, Any]) -> Tensor:
        """Put a half's encodings among the arguments of `encode_prompt`, where those that a caller has would be."""
        assert self.view is not None
        prepared = self.view.prepare(context, Moment.of(torch.zeros(len(context), dtype=torch.long)))
        features = prepared.read(self.view.cross_sites()[0], "key")
        arguments[f"{HALVES[half]}prompt_embeds"] = features
        if prepared.pooled is not None:
            arguments[f"{HALVES[half]}pooled_prompt_embeds"] = prepared.pooled
        return features

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a call of the U-Net is given: where it reads prompts that were told here, everything that they say."""
        asked = kwargs.get("cross_attention_kwargs") or {}
        features = args[2] if len(args) > 2 else kwargs.get("encoder_hidden_states")
        # A base that shares the U-Net says itself what its calls read.
        if "moment" in asked or features is None or self.view is None:
            return args, kwargs
        self.told = [told for told in self.told if told.lives]
        found = next((reading for told in reversed(self.told) if (reading := told.read_by(features))), None)
        if found is None:
            return args, kwargs
        context, labels = found
        t = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"])
        moment = Moment.of(t.reshape(-1).expand(len(context)).long(), **labels)
        prepared = self.view.prepare(context, moment)
        call = Call(moment, prepared, self.edits, self.chooser)
        given = {**kwargs, "cross_attention_kwargs": {**asked, "moment": call}}
        if prepared.pooled is not None:
            # A word may be another one at this timestep.
            beside = kwargs["added_cond_kwargs"]
            given["added_cond_kwargs"] = {**beside, "text_embeds": prepared.pooled.to(beside["text_embeds"])}
        return args, given


@dataclass
class Told:
    """Prompts that `encode_prompt` encoded, known again by their encodings for as long as someone has those."""

    contexts: dict[Guidance, Context]
    encodings: dict[Guidance, Tensor]
    holders: list[weakref.ref[Tensor]]
    """The tensors that went out, and what they became before they came to the U-Net."""

    @property
    def lives(self) -> bool:
        """Whether anything of what went out is still there."""
        return any(holder() is not None for holder in self.holders)

    def holds(self, patches: tuple[Patch, ...]) -> bool:
        """Whether a word among `patches` stands in a prompt."""
        return any(word in patches for context in self.contexts.values() for row in context.rows for word in row.words)

    def read_by(self, features: Tensor) -> tuple[Context, dict[str, Any]] | None:
        """The prompt of every row of what the U-Net is to read, and the rows' labels; None if a row is none of them."""
        n = len(features) // 2
        guesses: tuple[dict[Guidance, Tensor], ...] = (
            {"null": features[:n], "conditional": features[n:]},
            {"conditional": features},
            {"null": features},
        )
        for guess in guesses:
            rows = {half: self._rows(half, part) for half, part in guess.items()}
            if all(rows.values()):
                self._held_by(features)
                contexts = [self.contexts[half].pick(found) for half, found in rows.items()]
                guidance = [half for half, found in rows.items() for _ in found]
                picture = [i for found in rows.values() for i in range(len(found))]
                return reduce(Context.__add__, contexts), {"guidance": guidance, "picture": picture}
        return None

    def _held_by(self, tensor: Tensor) -> None:
        others = [h for h in self.holders if h() is not None and h() is not tensor]
        self.holders = [*others, weakref.ref(tensor)]

    def _rows(self, half: Guidance, features: Tensor) -> list[int]:
        """Which of a half's prompts each row of `features` encodes; empty unless all rows are known."""
        if half not in self.encodings or self.encodings[half].shape[1:] != features.shape[1:]:
            return []
        same = (features[:, None] == self.encodings[half].to(features)).flatten(2).all(-1).tolist()
        return [row.index(True) for row in same] if all(map(any, same)) else []


def _contexts(view: Base, arguments: Mapping[str, Any]) -> dict[Guidance, Context]:
    """The halves that are text in the arguments of `encode_prompt`."""
    encoded, negative = arguments.get("prompt_embeds"), arguments.get("negative_prompt")
    contexts: dict[Guidance, Context] = {}
    if encoded is None:
        _require_one_prompt(arguments, "prompt")
        contexts["conditional"] = view.text(arguments["prompt"])
    if arguments.get("do_classifier_free_guidance", True) and arguments.get("negative_prompt_embeds") is None:
        _require_one_prompt(arguments, "negative_prompt")
        n = len(contexts["conditional"] if encoded is None else encoded)
        refused = ([negative] if isinstance(negative, str | None) else list(negative)) * n
        # A pipeline of XL takes no negative prompt for zeros, and encodes an empty one.
        contexts["null"] = view.text([text or "" for text in refused[:n]], zeros=negative is None)
    return contexts


def _require_one_prompt(arguments: Mapping[str, Any], name: str) -> None:
    """Raise SemblantError where the two text encoders of XL are given different prompts."""
    other = arguments.get(f"{name}_2")
    if other is not None and other != arguments.get(name):
        raise SemblantError(f"both text encoders read one prompt while words are lent; leave {name}_2 out")


def _hook(unet: Any, before: weakref.WeakMethod) -> Any:
    """Have `before` rewrite what the U-Net is given, as long as its owner lives."""

    def rewrite(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own = before()
        return (args, kwargs) if own is None else own(args, kwargs)

    return unet.register_forward_pre_hook(rewrite, with_kwargs=True)
