"""Concepts to convert: LoRAs of every kind of layer, and words; for bases in the form of XL too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature_xl
from semblant.training.concepts import Concept


def changeable(base: Base) -> dict[str, Tensor]:
    """Every matrix and convolution that the forms have names for."""
    return {
        name: weight
        for name, weight in base.named_parameters()
        if name.endswith(".weight")
        and weight.ndim in (2, 4)
        and not name.startswith("autoencoder.")
        and ".embeddings." not in name
    }


def random_lora(
    base: Base, chosen: Callable[[str], bool], ranks: tuple[int, ...] = (4,), alpha: float = 6.0
) -> Concept:
    """A LoRA concept of random factors; convolutions keep their kernels."""
    generator, tensors = torch.Generator().manual_seed(1), {}
    for index, (name, weight) in enumerate(n for n in changeable(base).items() if chosen(n[0])):
        rank = ranks[index % len(ranks)]
        ones = (1,) * (weight.ndim - 2)
        tensors[f"{name}.up"] = torch.randn(weight.shape[0], rank, *ones, generator=generator)
        tensors[f"{name}.down"] = torch.randn(rank, *weight.shape[1:], generator=generator)
    settings = {"rank": ranks[0], "alpha": alpha, "identifier": "cup", "targets": ["to_q", "to_k"], "prior_count": 0}
    return Concept("lora-dreambooth", settings, "<maya>", "person", base.describe(), tensors, seed=3, steps=7)


KINDS: dict[str, Callable[[Base], Concept]] = {
    "attention": lambda base: random_lora(base, lambda name: ".attn" in name and name.startswith("unet.")),
    "alpha is the rank": lambda base: random_lora(base, lambda name: ".attn2.to_k" in name, alpha=4.0),
    "text too": lambda base: random_lora(
        base, lambda name: ".attn" in name or "self_attn" in name, ranks=(2,), alpha=0.5
    ),
    "text alone": lambda base: random_lora(base, lambda name: name.startswith("text.")),
    "everything": lambda base: random_lora(base, lambda name: True),
    "several ranks": lambda base: random_lora(base, lambda name: ".attn" in name, ranks=(4, 2, 4, 3)),
}


@pytest.fixture(scope="session")
def lora(base: Base) -> Callable[[str], Concept]:
    """`lora(kind)` is a LoRA of one of KINDS, made for the tiny base."""
    return lambda kind: KINDS[kind](base)


@pytest.fixture(scope="session")
def word(base: Base) -> Callable[[int], Concept]:
    """`word(count)` is a word of so many rows."""

    def make(count: int) -> Concept:
        rows = torch.randn(1, 1, 1, count, base.width, generator=torch.Generator().manual_seed(2))
        settings = {"num_vectors": count, "lr": 0.1}
        return Concept("textual-inversion", settings, "<rex>", "dog", base.describe(), {"rows": rows}, licence="mine")

    return make


XL_KINDS: dict[str, Callable[[Base], Concept]] = {
    "attention": lambda base: random_lora(base, lambda name: ".attn" in name and name.startswith("unet.")),
    "all texts": lambda base: random_lora(base, lambda name: name.startswith("text"), ranks=(2,), alpha=0.5),
    "second text alone": lambda base: random_lora(base, lambda name: name.startswith("text_2.")),
    "everything": lambda base: random_lora(base, lambda name: True, ranks=(4, 2)),
}


@pytest.fixture(scope="session")
def xl() -> Base:
    """A tiny base in the form of Stable Diffusion XL."""
    return miniature_xl()


@pytest.fixture(scope="session")
def xl_lora(xl: Base) -> Callable[[str], Concept]:
    """`xl_lora(kind)` is a LoRA of one of XL_KINDS for it, no larger than what is learned."""

    def make(kind: str) -> Concept:
        made = XL_KINDS[kind](xl)
        # The forms have no name for the projection of a prompt as a whole.
        kept = {name: 0.1 * tensor for name, tensor in made.tensors.items() if "text_projection" not in name}
        return replace(made, tensors=kept)

    return make


@pytest.fixture(scope="session")
def xl_word(xl: Base) -> Callable[[int], Concept]:
    """`xl_word(count)` is a word of so many rows, each as wide as those of both text encoders."""

    def make(count: int) -> Concept:
        rows = torch.randn(1, 1, 1, count, xl.width, generator=torch.Generator().manual_seed(2))
        return Concept("textual-inversion", {"num_vectors": count}, "<rex>", "dog", xl.describe(), {"rows": rows})

    return make
