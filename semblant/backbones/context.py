"""What prompts become: token positions, and text encodings that may differ by timestep, site, and key or value."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from semblant.backbones.moment import Moment
    from semblant.backbones.patch import WordsPatch
    from semblant.backbones.site import Site

Part = Literal["key", "value"]
Variant = tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One prompt, tokenised. It is encoded when and as often as its words' variants ask for it."""

    text: str
    ids: tuple[int, ...]
    positions: dict[str, tuple[int, ...]]
    """Token positions of every word of the prompt, placeholders included; positions cut off at the end are missing."""
    end: int
    """Position of the end token: the prompt's own tokens are 1 .. end - 1."""
    words: tuple[WordsPatch, ...] = ()
    """The words patches that touch this prompt."""
    weights: tuple[float, ...] | None = None
    """Prompt weight of every position, or None when all are 1."""
    fixed: Float[Tensor, "tokens dim"] | None = None
    """An encoding given from outside; the prompt is then never encoded."""

    @property
    def key(self) -> Hashable:
        """Prompts with equal keys are encoded alike. It holds only while the prompt and its patches live."""
        return self.text, self.ids, self.weights, *map(id, (*self.words, self.fixed))

    def variant(self, timestep: int, site: Site | None, part: Part) -> Variant:
        """Which encoding holds here: one entry per words patch, which hears only of what it says it depends on."""
        if self.fixed is not None:
            return ()
        return tuple(
            word.variant(timestep if word.timed else 0, site if word.layered else None, part if word.split else "key")
            for word in self.words
        )


Encode = Callable[[Sequence[tuple[Encoded, Variant]]], Tensor]
"""Encodes (prompt, variant) requests to [requests, tokens, dim]."""


@dataclass(frozen=True)
class Context:
    """The prompts of a batch, one per row."""

    rows: tuple[Encoded, ...]

    @staticmethod
    def of(encoding: Float[Tensor, "rows tokens dim"], like: Context | None = None) -> Context:
        """A context of given encodings; `like` lends its texts and positions."""
        if like is None:
            return Context(tuple(Encoded("", (), {}, 0, fixed=row) for row in encoding))
        return Context(
            tuple(
                Encoded(old.text, old.ids, old.positions, old.end, fixed=row)
                for row, old in zip(encoding, like.rows, strict=True)
            )
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Context) -> Context:
        return Context(self.rows + other.rows)

    def repeat(self, times: int) -> Context:
        """All rows, `times` over."""
        return Context(self.rows * times)

    def pick(self, rows: Sequence[int]) -> Context:
        """Some rows."""
        return Context(tuple(self.rows[i] for i in rows))

    def positions(self, word: str) -> tuple[tuple[int, ...], ...]:
        """Token positions of a word in every row; empty where the row lacks it."""
        return tuple(row.positions.get(word, ()) for row in self.rows)


@dataclass(frozen=True)
class Prepared:
    """The encodings that one call needs, and which of them each row reads at each site for keys and values."""

    table: Float[Tensor, "entries tokens dim"]
    index: dict[tuple[int | None, Part], Tensor | None]
    """(site index or None for all, part) -> entry per row; None when row i simply reads entry i."""

    def read(self, site: Site, part: Part) -> Float[Tensor, "rows tokens dim"]:
        """What the rows read at `site` for `part`."""
        key: tuple[int | None, Part] = (site.index, part) if (site.index, part) in self.index else (None, part)
        entries = self.index[key]
        return self.table if entries is None else self.table[entries]


def prepare(context: Context, moment: Moment, sites: Sequence[Site], encode: Encode) -> Prepared:
    """Encode what a call needs: every distinct (prompt, variant) once, nothing that no row reads."""
    flags = {
        name: any(getattr(w, name) for row in context.rows for w in row.words) for name in ("timed", "layered", "split")
    }
    times = moment.timestep.tolist() if flags["timed"] else [0] * len(context)
    parts: tuple[Part, ...] = ("key", "value") if flags["split"] else ("key",)
    places: list[Site | None] = [s for s in sites if s.kind == "cross"] if flags["layered"] else [None]  # type: ignore[assignment]
    entries: dict[tuple[Hashable, Variant], int] = {}
    requests: list[tuple[Encoded, Variant]] = []
    index: dict[tuple[int | None, Part], Tensor | None] = {}
    for place in places:
        for part in parts:
            chosen = []
            for row, time in zip(context.rows, times, strict=True):
                variant = row.variant(time, place, part)
                key = (row.key, variant)
                if key not in entries:
                    entries[key] = len(requests)
                    requests.append((row, variant))
                chosen.append(entries[key])
            index[None if place is None else place.index, part] = torch.tensor(chosen)
    table = encode(requests)
    device = table.device
    for where, chosen_entries in index.items():
        assert chosen_entries is not None
        plain = len(requests) == len(context) and chosen_entries.tolist() == list(range(len(context)))
        index[where] = None if plain else chosen_entries.to(device)
    if not flags["split"]:
        index.update({(place, "value"): chosen for (place, _), chosen in list(index.items())})
    return Prepared(table, index)
