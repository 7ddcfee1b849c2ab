"""Learning weights of the base beside a word that means "[V] class", with class pictures against forgetting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from semblant.backbones.base import Base
from semblant.backbones.patch import Patch, WeightsPatch
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.patches.words import Table
from semblant.training.bank import Prior
from semblant.training.concepts import Concept
from semblant.training.learner import Example
from semblant.training.words import WordLearner

Attach = Callable[[Mapping[str, Tensor]], Sequence[Patch]]
"""Makes patches of the weights that are learned, by name."""


def named_class(base: Base, identifier: str, class_word: str) -> Float[Tensor, "length dim"]:
    """The rows of "[V] class": a rare word's and the class word's (DreamBooth, arXiv 2208.12242, Sec. 3.2).

    A prompt that holds a word of these rows is encoded as if both words stood there.
    """
    return torch.cat([base.token_rows(identifier), base.token_rows(class_word)])


class NamedClass(nn.Module):
    """A table with the rows of "[V] class", of which [V]'s are learned or all stay as they are."""

    def __init__(self, base: Base, identifier: str, class_word: str, *, learned: bool) -> None:
        super().__init__()
        rows, count = named_class(base, identifier, class_word), len(base.token_rows(identifier))
        self.modifier: Tensor
        self.rest: Tensor
        if learned:
            self.register_parameter("modifier", nn.Parameter(rows[:count]))
        else:
            self.register_buffer("modifier", rows[:count])
        self.register_buffer("rest", rows[count:])

    def forward(self, generator: Generator | None = None) -> Table:
        """The table [1, 1, 1, length, dim]; nothing in it is random."""
        return torch.cat([self.modifier, self.rest])[None, None, None]


class PriorSettings(Protocol):
    """What methods with prior preservation call its settings."""

    @property
    def prompt(self) -> str:
        """A prompt with `{}` where the class word goes."""

    @property
    def prior_count(self) -> int:
        """Class pictures that the base makes."""

    @property
    def prior_weight(self) -> float:
        """Weight of their loss."""

    @property
    def prior_steps(self) -> int:
        """Sampling steps of each."""

    @property
    def prior_guidance(self) -> float:
        """Their guidance scale."""


def prior_of(settings: PriorSettings, base: Base, class_word: str, generator: Generator) -> Prior | None:
    """Class pictures as a method's settings ask for them; None when they would count for nothing."""
    return Prior.made(
        base,
        with_word(settings.prompt).replace("{}", class_word),
        count=settings.prior_count,
        weight=settings.prior_weight,
        steps=settings.prior_steps,
        guidance=settings.prior_guidance,
        generator=generator,
    )


class FinetuningLearner(WordLearner):
    """Weights, and perhaps a word, that denoise the subject beside the base's own pictures of its class.

    `weights` are learned under the names they are stored by; `attach` makes patches of them. Each step has as many
    class pictures as pictures of the subject, none without a `prior`. `settings` go to the word's learner.
    """

    def __init__(
        self,
        base: Base,
        subject: Subject,
        rows: NamedClass,
        weights: Mapping[str, Tensor],
        attach: Attach,
        *,
        prior: Prior | None,
        **settings: Any,
    ) -> None:
        super().__init__(base, subject, rows, **settings)
        self.weights = {name: nn.Parameter(start.to(base.device)) for name, start in weights.items()}
        self.parameters = {**self.parameters, **self.weights}
        self.attach, self.prior = attach, prior
        self.learns_word = any(True for _ in rows.parameters())

    def draw(self, generator: Generator) -> Sequence[Example]:
        """Pictures of the subject, then pictures of its class under plain words."""
        own = list(super().draw(generator))
        return own if self.prior is None else [*own, *self.prior.draw(generator, beside=len(own))]

    def patches(self) -> Sequence[Patch]:
        """The word, and the weights as they stand."""
        return [self.learned(), *self.attach(self.weights)]

    def after_step(self) -> None:
        """Look now and then at how far the weights have moved, and at the word when it is learned."""
        if self.looking:
            self.seen["change of weights"] = self.change()
        if self.learns_word:
            super().after_step()
        else:
            self.done += 1

    def change(self) -> float:
        """Length of a weight's change in lengths of the weight, mean over weights (Custom Diffusion's measure)."""
        patches = [patch for patch in self.attach(self.weights) if isinstance(patch, WeightsPatch)]
        ratios = [
            float((patch.delta(name, there) - there).norm() / there.norm())
            for name, weight in self.base.named_parameters()
            for patch in patches
            if patch.select(name)
            for there in [weight.to(self.base.device)]
        ]
        return sum(ratios) / len(ratios)

    def tensors(self) -> dict[str, Tensor]:
        """The weights, and the table of rows when some of it is learned."""
        word = super().tensors() if self.learns_word else {}
        return {**word, **{name: weight.detach().clone() for name, weight in self.weights.items()}}


def learned_weights(base: Base, concept: Concept, *endings: str) -> dict[str, Tensor]:
    """The tensors of a concept that belong to weights of the base, on its device.

    A weight's canonical name may be followed by one of `endings`. Raises SemblantError when the base lacks the weight.
    """
    known = dict(base.named_parameters())
    found = {name: tensor.to(base.device) for name, tensor in concept.tensors.items() if name != "rows"}
    for name in found:
        weight = name
        for ending in endings:
            weight = weight.removesuffix(ending)
        if weight not in known:
            raise SemblantError(
                f"{concept.word} changes {weight}, which {base.name} does not have; "
                f"use the base it was made on, {concept.base.get('name', 'unknown')}, or fit the subject again"
            )
    return found


def with_word(prompt: str) -> str:
    """A training prompt, checked. Raises SemblantError unless `{}` stands once where the word goes."""
    if prompt.count("{}") != 1:
        raise SemblantError(
            f"a training prompt has {{}} once, where the word goes, as in 'a photo of {{}}'; got {prompt!r}"
        )
    return prompt
