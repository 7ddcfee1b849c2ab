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
from semblant.embedded.latents import SHARD, Shard, face_weight, load_shard
from semblant.embedded.processes import company
from semblant.world.captions import write
from semblant.world.renderer import render
from semblant.world.scene import Scene, draw_training_scene

log = logging.getLogger(__name__)

EMPTY_CAPTIONS = 0.1
CAPTIONS_EACH = 4
"""Captions written for a picture that stays on a device."""
BLOCK = 1024
"""Pictures drawn and encoded together on a device."""
Shown = tuple[Float[Tensor, "rows 4 h w"], Float[Tensor, "rows 1 h w"], Int[Tensor, "rows tokens"]]
"""Latents, how much each of their cells counts, and token ids of a caption each."""


class Rows(Protocol):
    """An endless, seeded stream of what to show."""

    def draw(self, count: int, seen: int) -> Shown:
        """What comes after `seen` presentations."""
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
        latents, weights, captions = [], [], []
        for _ in range(count):
            shard = self.shards[names[rng.randrange(len(names))]]
            row = rng.randrange(SHARD)
            latents.append(shard.latents[row])
            weights.append(shard.weights[row])
            captions.append("" if rng.random() < EMPTY_CAPTIONS else write(shard.scenes[row], rng))
        return torch.stack(latents).float(), torch.stack(weights).float() / 32, self.words(captions)


@dataclass(frozen=True)
class Resident:
    """Rows that lie on one device, each with several captions."""

    latents: Float[Tensor, "n 4 h w"]
    weights: UInt8[Tensor, "n 1 h w"]
    ids: Int[Tensor, "n captions tokens"]
    empty: Int[Tensor, " tokens"]
    seed: int = 0

    def refresh(self) -> None:
        """Nothing joins."""

    def draw(self, count: int, seen: int) -> Shown:
        """The rows after `seen` presentations."""
        device = self.latents.device
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + seen)
        pick = lambda below: torch.randint(below, (count,), generator=generator, device=device)
        rows = pick(len(self.latents))
        ids = self.ids[rows, pick(self.ids.shape[1])].long()
        silent = torch.rand(count, 1, generator=generator, device=device) < EMPTY_CAPTIONS
        return self.latents[rows].float(), self.weights[rows].float() / 32, torch.where(silent, self.empty, ids)


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
    latents, weights, ids = [], [], []
    with company(workers) as share:
        written = share(_written, [(list(rows), words, seed) for rows in blocks])
        for rows in blocks:
            drawn = render([draw_training_scene(i, seed) for i in rows], size, device)
            latents.append(encode(drawn.image * 2 - 1).half())
            weights.append((face_weight(drawn) * 32).round().to(torch.uint8))
            ids.append(next(written))
    log.info("%d pictures drawn and encoded in %.0f s", pictures, time.monotonic() - began)
    empty = words([""])[0].to(device)
    return Resident(torch.cat(latents), torch.cat(weights), torch.cat(ids).to(device), empty, seed)


def _written(task: tuple[list[int], Words, int]) -> Int[Tensor, "n captions tokens"]:
    """Token ids of some captions of each of some pictures."""
    rows, words, seed = task
    rng = random.Random(f"captions {seed} {rows[0]}")
    scenes: list[Scene] = [draw_training_scene(i, seed) for i in rows]
    ids = words([write(scene, rng) for scene in scenes for _ in range(CAPTIONS_EACH)])
    return ids.to(torch.int16).view(len(rows), CAPTIONS_EACH, -1)
