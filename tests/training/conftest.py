"""A tiny base and tiny learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, Patch
from semblant.backbones.site import Site
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord
from semblant.training.learner import Batch, Example, Learner, Optimiser


class Scaled(AttentionPatch):
    """Scales the values of cross-attention by a learned factor and records what it saw."""

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    def rewrite(self, site: Site, moment: Moment, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind == "cross":
            moment.record("rows", site, torch.tensor(len(q)))
            return q, k, v * self.factor
        return q, k, v


class TinyWord(Learner):
    """One word, one row; optionally a learned factor in attention, a weights patch, plain rows and trouble."""

    def __init__(
        self,
        base: Base,
        word: str = "<a>",
        *,
        rows: int = 2,
        attention: bool = False,
        weights: bool = False,
        plain: bool = False,
        spoil: Callable[[int], bool] = lambda step: False,
        **settings: object,
    ) -> None:
        generator = torch.Generator().manual_seed(len(word) + ord(word[1]))
        row = base.token_row("person")
        parameters = {"row": torch.nn.Parameter(row + 0.1 * torch.randn(row.shape, generator=generator))}
        if attention:
            parameters["factor"] = torch.nn.Parameter(torch.tensor(1.5))
        if weights:
            self.name = next(n for n, w in base.named_parameters() if "attn2.to_v.weight" in n)
            parameters["offset"] = torch.nn.Parameter(torch.zeros_like(dict(base.named_parameters())[self.name]))
        optimiser = Optimiser(lr=0.01, clip=settings.pop("clip", None))  # type: ignore[arg-type]
        super().__init__(parameters, optimiser, **settings)  # type: ignore[arg-type]
        self.word, self.rows, self.plain, self.spoil, self.base = word, rows, plain, spoil, base
        self.latents = torch.randn(3, 4, 8, 8, generator=generator)
        self.count, self.seen_rows, self.table = 0, [], torch.empty(0)

    def begin(self, generator: torch.Generator) -> None:
        self.table = self.parameters["row"] + 0.01 * torch.randn(self.parameters["row"].shape, generator=generator)

    def draw(self, generator: torch.Generator) -> Sequence[Example]:
        drawn = torch.randint(3, (self.rows,), generator=generator).tolist()
        made = [Example(self.latents[i], f"a photo of {self.word}") for i in drawn]
        if self.plain:
            prompts = ("a photo of person", "the old person", "person on the beach")
            made.append(Example(self.latents[0], prompts[drawn[0]], weight=0.5, patched=False))
        return made

    def patches(self) -> Sequence[Patch]:
        table = self.table.view(1, 1, 1, 1, -1)
        made: list[Patch] = [LearnedWord(self.word, table, self.base.token_row("person"))]
        if "factor" in self.parameters:
            made.append(Scaled(self.parameters["factor"]))
        if "offset" in self.parameters:
            made.append(Offsets({self.name: self.parameters["offset"]}))
        return made

    def loss(self, moment: Moment, prediction: Tensor, batch: Batch) -> Tensor:
        self.seen_rows = [int(t) for t in moment.recorded("rows")]
        per_row = super().loss(moment, prediction, batch)
        return per_row * float("nan") if self.spoil(self.count) else per_row

    def after_step(self) -> None:
        self.count += 1

    def state(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.count = int(state["count"])

    def figures(self) -> dict[str, float]:
        return {"norm": float(self.parameters["row"].detach().norm())}

    def tensors(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}


@pytest.fixture(scope="session")
def base() -> Base:
    return miniature()


@pytest.fixture
def tiny(base: Base) -> Callable[..., TinyWord]:
    """Makes learners on the tiny base: `tiny(word, **settings)`."""
    return lambda word="<a>", **settings: TinyWord(base, word, **settings)
