"""What the U-Net is shown, step by step: latents with their weights, and captions as tokens.

On the processor captions are written anew for every presentation. A GPU is too fast for that: there pictures are drawn
and encoded once, on the device, and stay; several captions of each are written meanwhile by other processes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from semblant.backbones.blueprint import Tokenizer
from semblant.backbones.vocabulary import PIECE
from semblant.embedded.latents import SHARD, Shard, cell_weights, load_shard, packed, unpacked
from semblant.embedded.processes import company
from semblant.embedded.reader import UNNAMED, Lessons, frames_of, named_in
from semblant.embedded.twins import captions_of, picture_of
from semblant.world.renderer import render
from semblant.world.scene import Scene

log = logging.getLogger(__name__)

EMPTY_CAPTIONS = 0.1
SHOWN = {"close-up": 1.0, "portrait": 0.6, "half body": 0.3}
"""How often pictures of each camera are shown, relative to one another. Faces are best learned where they are large: a
mouth has nine cells of a close-up's latents, and two where somebody stands at a distance."""
SHOWN_TWO = 1.0
"""How often pictures of two people are: they are few, their faces small, and whose words are whose takes long to learn.
Seven in ten of all that is shown then has one person in it."""
CAPTIONS_EACH = 4
"""Captions written for a picture that stays on a device."""
BLOCK = 1024
"""Pictures drawn and encoded together on a device."""


@dataclass(frozen=True)
class Shown:
    """What the U-Net is shown in one step, twin after twin."""

    latents: Float[Tensor, "rows 4 h w"]
    weights: Float[Tensor, "rows 1 h w"]
    """How much each cell counts."""
    ids: Int[Tensor, "rows tokens"]
    """Token ids of a caption each."""
    named: Int[Tensor, "rows facts"]
    """What the captions name (see `reader.named_in`)."""
    frames: Float[Tensor, "rows 4"]
    """Where the faces are."""


class Rows(Protocol):
    """An endless, seeded stream of what to show."""

    def draw(self, count: int, seen: int) -> Shown:
        """What comes after `seen` presentations: an even number of rows, twin after twin."""
        ...

    def refresh(self) -> None:
        """Take in what was added since."""
        ...


class Words:
    """Fast tokenising of captions whose every piece is one token; equal to the tokenizer on such captions."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab()
        self.known = {k.removesuffix("</w>"): v for k, v in vocabulary.items() if k.endswith("</w>")}
        self.start, self.end = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self.length = int(tokenizer.model_max_length)

    def __call__(self, captions: Sequence[str]) -> Int[Tensor, "captions tokens"]:
        """Token ids [captions, 77]."""
        rows = []
        for caption in captions:
            ids = [self.known[piece] for piece in PIECE.findall(caption)][: self.length - 2]
            rows.append([self.start, *ids, *[self.end] * (self.length - 1 - len(ids))])
        return torch.tensor(rows)


class Presentations:
    """Rows of the shards in a folder, under freshly written captions; new shards join as they appear."""

    def __init__(self, folder: Path, words: Words, seed: int = 0) -> None:
        self.folder, self.words, self.seed = folder, words, seed
        self.shards: dict[str, Shard] = {}

    def refresh(self) -> None:
        """Take in shards written since the last call."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self.shards:
                self.shards[path.name] = load_shard(path)

    def draw(self, count: int, seen: int) -> Shown:
        """The rows after `seen` presentations."""
        rng = random.Random(f"presentation {self.seed} {seen}")
        names = sorted(self.shards)
        latents, weights = [], []
        scenes: list[Scene] = []
        captions: list[str] = []
        for _ in range(count // 2):
            shard, row = self._row(names, rng)
            twins = slice(row, row + 2)
            latents.append(shard.latents[twins])
            weights.append(shard.weights[twins])
            scenes += shard.scenes[twins]
            captions += captions_of(shard.scenes[row], shard.scenes[row + 1], rng)
        captions = ["" if rng.random() < EMPTY_CAPTIONS else caption for caption in captions]
        return Shown(
            torch.cat(latents).float(),
            unpacked(torch.cat(weights)),
            self.words(captions),
            named_in(captions, scenes),
            frames_of(scenes),
        )

    def _row(self, names: Sequence[str], rng: random.Random) -> tuple[Shard, int]:
        """The first row of a pair in one of the shards, more often one of a near camera."""
        while True:
            shard, row = self.shards[rng.choice(names)], 2 * rng.randrange(SHARD // 2)
            if rng.random() < often(shard.scenes[row]):
                return shard, row


def often(scene: Scene) -> float:
    """How often a picture is shown, relative to others."""
    return SHOWN_TWO if len(scene.people) == 2 else SHOWN[scene.camera]


@dataclass(frozen=True)
class Resident:
    """Rows that lie on one device, each with several captions; `shown` adds up how often the pairs
    so far are shown."""

    latents: Float[Tensor, "n 4 h w"]
    weights: UInt8[Tensor, "n 1 h w"]
    ids: Int[Tensor, "n captions tokens"]
    named: Int[Tensor, "n captions facts"]
    frames: Float[Tensor, "n 4"]
    shown: Float[Tensor, " pairs"]
    empty: Int[Tensor, " tokens"]
    seed: int = 0

    def refresh(self) -> None:
        """Nothing joins."""

    def lessons(self) -> Lessons:
        """What a reader learns from: of every picture what any of its captions names."""
        return Lessons(self.latents, self.frames, self.named.amax(1))

    def draw(self, count: int, seen: int) -> Shown:
        """The rows after `seen` presentations."""
        device = self.latents.device
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + seen)
        pick = lambda below: torch.randint(below, (count,), generator=generator, device=device)
        share = torch.rand(count // 2, generator=generator, device=device)
        pairs = torch.searchsorted(self.shown, share * self.shown[-1])
        rows = (2 * pairs[:, None] + torch.arange(2, device=device)).flatten()
        sentences = pick(self.ids.shape[1])
        sentences[1::2] = sentences[::2]
        ids, named = self.ids[rows, sentences].long(), self.named[rows, sentences].long()
        silent = torch.rand(count, 1, generator=generator, device=device) < EMPTY_CAPTIONS
        ids, named = torch.where(silent, self.empty, ids), named.masked_fill(silent, UNNAMED)
        return Shown(self.latents[rows].float(), unpacked(self.weights[rows]), ids, named, self.frames[rows])


@torch.no_grad()
def settle(
    pictures: int,
    encode: Callable[[Tensor], Tensor],
    words: Words,
    device: str | torch.device,
    *,
    size: int = 128,
    workers: int = 0,
    block: int = BLOCK,
    seed: int = 0,
) -> Resident:
    """Draw the first pictures of the training set on `device`, encode them, and keep them there with their captions.

    `encode` takes pictures [n, 3, size, size] in -1..1 on the device. `workers` processes write the captions (0: none,
    they are written in between).
    """
    began = time.monotonic()
    blocks = [range(at, min(at + block, pictures)) for at in range(0, pictures, block)]
    latents, weights, frames, told = [], [], [], []
    shown: list[float] = []
    with company(workers) as share:
        written = share(_written, [(list(rows), words, seed) for rows in blocks])
        for rows in blocks:
            scenes = [picture_of(i, seed) for i in rows]
            drawn = render(scenes, size, device)
            shown.extend(often(scene) for scene in scenes[::2])
            latents.append(encode(drawn.image * 2 - 1).half())
            weights.append(packed(cell_weights(drawn)))
            frames.append(frames_of(scenes))
            told.append(next(written))
    log.info("%d pictures drawn and encoded in %.0f s", pictures, time.monotonic() - began)
    empty = words([""])[0].to(device)
    summed = torch.tensor(shown, dtype=torch.float64).cumsum(0).float().to(device)
    ids, named = (torch.cat(part).to(device) for part in zip(*told, strict=True))
    lying = torch.cat(latents), torch.cat(weights), ids, named, torch.cat(frames).to(device)
    return Resident(*lying, summed, empty, seed)


def _written(
    task: tuple[list[int], Words, int],
) -> tuple[Int[Tensor, "n captions tokens"], Int[Tensor, "n captions facts"]]:
    """Token ids of some captions of each of some pictures, and what they name."""
    rows, words, seed = task
    rng = random.Random(f"captions {seed} {rows[0]}")
    scenes = [picture_of(i, seed) for i in rows]
    told = [
        list(zip(*(captions_of(first, second, rng) for _ in range(CAPTIONS_EACH)), strict=True))
        for first, second in zip(scenes[::2], scenes[1::2], strict=True)
    ]
    captions = [caption for pair in told for each in pair for caption in each]
    named = named_in(captions, [scene for scene in scenes for _ in range(CAPTIONS_EACH)]).to(torch.int8)
    shape = len(rows), CAPTIONS_EACH, -1
    return words(captions).to(torch.int16).view(shape), named.view(shape)
