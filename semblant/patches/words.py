"""Learned words: vectors that a placeholder in a prompt stands for."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.context import Encoded, Part
from semblant.backbones.patch import WordsPatch
from semblant.backbones.site import Site

Table = Float[Tensor, "stages sites parts length dim"]


class LearnedWord(WordsPatch):
    """A placeholder whose input rows may differ by stage of the schedule, by cross-attention site, by key and value.

    `table` has one entry in every axis that does not matter: [1, 1, 1, 1, dim] is plain Textual Inversion, [5, 1, 2, 1,
    dim] SeFi-IDE's five stages of key and value words. `strength` moves every row from the class word (0), or from its
    own of several rows, to what was learned (1). On bases with two text encoders a row is that of both side by side.
    """

    word: str

    def __init__(
        self,
        word: str,
        table: Table,
        class_row: Float[Tensor, "*length dim"],
        stage_of: Int[Tensor, " timesteps"] | None = None,
        strength: float = 1.0,
    ) -> None:
        if table.ndim != 5:
            raise ValueError(f"a table of rows is [stages, sites, parts, length, dim]; got {tuple(table.shape)}")
        if table.shape[0] > 1 and stage_of is None:
            raise ValueError(f"{table.shape[0]} stages need a table that says which timestep belongs to which")
        self.word, self.table, self.class_row, self.strength = word, table, class_row, strength
        self.stages = [] if stage_of is None else stage_of.tolist()
        self.length = table.shape[3]
        self.timed, self.layered, self.split = table.shape[0] > 1, table.shape[1] > 1, table.shape[2] > 1

    def variant(self, timestep: int, site: Site | None, part: Part) -> Hashable:
        """(stage, site, part) with 0 in every axis that does not matter."""
        return (
            self.stages[timestep] if self.timed else 0,
            site.index if self.layered and site is not None else 0,
            int(self.split and part == "value"),
        )

    def embed(self, rows: Tensor, encoded: Encoded, variant: Hashable) -> Tensor:
        """Put the rows of this variant wherever the word stands."""
        learned = self.table[variant].to(rows)  # type: ignore[index]
        if self.strength != 1:
            learned = torch.lerp(self.class_row.to(rows).expand_as(learned), learned, self.strength)
        places = encoded.positions[self.word]
        repeats = len(places) // self.length
        return rows.index_copy(0, torch.tensor(places, device=rows.device), learned.repeat(repeats, 1))


def class_word_table(base: Base, class_word: str, shape: tuple[int, int, int, int]) -> Table:
    """A table [stages, sites, parts, length, dim] whose every row is the class word's own."""
    return base.token_row(class_word).expand(*shape, -1).clone()
