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
class Encoding:
    """What text encoders made of one prompt or of several: all that the U-Net reads of them."""

    features: Float[Tensor, "*rows tokens dim"]
    """What cross-attention reads. Of several encoders it is side by side along `dim`."""
    pooled: Float[Tensor, "*rows wide"] | None = None
    """A prompt as a whole, for U-Nets that read it so beside the tokens (Stable Diffusion XL); else None."""

    @staticmethod
    def stack(encodings: Sequence[Encoding]) -> Encoding:
        """Encodings of single prompts as one of all."""
        pooled = [e.pooled for e in encodings if e.pooled is not None]
        return Encoding(torch.stack([e.features for e in encodings]), torch.stack(pooled) if pooled else None)

    @property
    def requires_grad(self) -> bool:
        """Whether something that is learned has a part in it."""
        return self.features.requires_grad or (self.pooled is not None and self.pooled.requires_grad)


@dataclass(frozen=True)
class Framing:
    """How a picture came to its size (Podell et al. 2023, arXiv 2307.01952, Sec. 2.2), as (height, width) in pixels."""

    original: tuple[int, int]
    """Before it was resized."""
    crop: tuple[int, int]
    """What was then cut off at the top and at the left."""
    target: tuple[int, int]
    """As it is now."""

    @staticmethod
    def whole(height: int, width: int) -> Framing:
        """A picture that always had this size."""
        return Framing((height, width), (0, 0), (height, width))

    @staticmethod
    def square(height: int, width: int, size: int) -> Framing:
        """A picture whose shorter side was resized to `size` and the middle square then cut out."""
        scale = size / min(height, width)
        top, left = ((round(side * scale) - size) // 2 for side in (height, width))
        return Framing((height, width), (top, left), (size, size))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The six numbers that Stable Diffusion XL is told, in its order."""
        return (*self.original, *self.crop, *self.target)


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
    fixed: Encoding | None = None
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


Encode = Callable[[Sequence[tuple[Encoded, Variant]]], Encoding]
"""Encodes (prompt, variant) requests, one row for each."""


@dataclass(frozen=True)
class Context:
    """What conditions a batch: one prompt per row and, for bases that are told, how each picture came to its size."""

    rows: tuple[Encoded, ...]
    framings: tuple[Framing | None, ...] = ()
    """One per row, or none at all. Without one a picture is taken to be whole and of the size that it has."""

    @staticmethod
    def of(
        features: Float[Tensor, "rows tokens dim"],
        like: Context | None = None,
        pooled: Float[Tensor, "rows wide"] | None = None,
    ) -> Context:
        """A context of given encodings; `like` lends its texts and positions. Bases of XL need `pooled` too."""
        given = [Encoding(row, None if pooled is None else pooled[i]) for i, row in enumerate(features)]
        if like is None:
            return Context(tuple(Encoded("", (), {}, 0, fixed=row) for row in given))
        rows = tuple(
            Encoded(old.text, old.ids, old.positions, old.end, fixed=row)
            for row, old in zip(given, like.rows, strict=True)
        )
        return Context(rows, like.framings)

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Context) -> Context:
        framings = (*self._each(), *other._each()) if self.framings or other.framings else ()
        return Context(self.rows + other.rows, framings)

    def repeat(self, times: int) -> Context:
        """All rows, `times` over."""
        return Context(self.rows * times, self.framings * times)

    def pick(self, rows: Sequence[int]) -> Context:
        """Some rows."""
        each = self._each()
        return Context(tuple(self.rows[i] for i in rows), tuple(each[i] for i in rows) if self.framings else ())

    def framed(self, framing: Framing) -> Context:
        """The same prompts for pictures that came to their size so. Give it to both halves of a guided call."""
        return Context(self.rows, (framing,) * len(self))

    def sizes(self, otherwise: Framing) -> list[tuple[int, ...]]:
        """What is told of every row's size."""
        return [(framing or otherwise).numbers for framing in self._each()]

    def _each(self) -> tuple[Framing | None, ...]:
        return self.framings or (None,) * len(self)

    def positions(self, word: str) -> tuple[tuple[int, ...], ...]:
        """Token positions of a word in every row; empty where the row lacks it."""
        return tuple(row.positions.get(word, ()) for row in self.rows)


@dataclass(frozen=True)
class Prepared:
    """The encodings that one call needs, and which of them each row reads at each site for keys and values."""

    table: Float[Tensor, "entries tokens dim"]
    index: dict[tuple[int | None, Part], Tensor | None]
    """(site index or None for all, part) -> entry per row; None when row i simply reads entry i."""
    pooled: Float[Tensor, "rows wide"] | None = None
    """Each row's prompt as a whole, where the base reads it so: of the encoding that the first site reads as keys."""

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
    encoding = encode(requests)
    table, device = encoding.features, encoding.features.device
    for where, chosen_entries in index.items():
        assert chosen_entries is not None
        plain = len(requests) == len(context) and chosen_entries.tolist() == list(range(len(context)))
        index[where] = None if plain else chosen_entries.to(device)
    if not flags["split"]:
        index.update({(place, "value"): chosen for (place, _), chosen in list(index.items())})
    first = index[next(iter(index))]
    pooled = encoding.pooled if encoding.pooled is None or first is None else encoding.pooled[first]
    return Prepared(table, index, pooled)
