"""A reader of latents: it tells the base, while that learns, whether what it paints shows what was named.

The error of the velocity weighs a fact by the cells it fills, and a mouth fills few. To a reader every fact weighs the
same. What the predicted clean latents fail to show of what a caption names is added to that error, as a perceptual loss
is elsewhere (Lin and Yang 2023, arXiv 2401.00110). The reader is seen in training only; what a base is worth is
measured by judges, which look at pictures and have never met it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semblant.backbones.faces import Square, crops, shaken
from semblant.embedded.judge_bank import FACTS, labels
from semblant.embedded.latents import load_shard, record
from semblant.world.being_facts import picture
from semblant.world.captions import read
from semblant.world.facts import IDENTITY_FACTS, VALUES, shown
from semblant.world.scene import Scene
from semblant.world.stances import posed
from semblant.world.traits import measure

log = logging.getLogger(__name__)

FACE, PICTURE = (48, 80, 128), (24, 48, 64)
"""Channels of the two ways: of the face from near by, of the picture as a whole."""
NEAR = 24
"""Side in cells to which a face is enlarged."""
REACH, RISE = 1.5, 0.15
"""Half the side of a face's frame, and how far it is moved up for hair and hats, in halves of a face's height."""
NOISE = 0.8
"""Most noise, as a standard deviation, on what the reader sees while it learns: one that has only seen clean latents
could be pleased by specks that nobody sees."""
LEARNING_RATE = 1.5e-3
BATCH = 64
KEPT = 1024
"""Pictures that a reader is asked about in the end and has not learned from."""
UNNAMED, UNSEEN = -1, -2
"""What no caption names, and what a name stands for but the picture does not show."""


SHAKE = (0.04, 0.04, 0.05, 0.04)
"""How far faces are moved, scaled and turned while it learns."""
WHOLE = ("background", "light", "style")
"""What is true of a picture whoever it shows."""


class Reader(nn.Module):
    """Which value of every fact latents [n, 4, h, w] show, as logits one fact after another."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.sizes = [len(VALUES[fact]) for fact in FACTS]
        self.face, self.picture = Way(channels, FACE), Way(channels, PICTURE)
        self.out = nn.Linear((FACE[-1] + PICTURE[-1]) * 16, sum(self.sizes))

    def forward(self, latents: Float[Tensor, "n 4 h w"], frames: Square) -> Float[Tensor, "n values"]:
        """Logits of all values of all facts."""
        seen = torch.cat([self.face(crops(latents, frames, NEAR)), self.picture(latents)], 1)
        return cast(Tensor, self.out(F.dropout(seen, 0.2, self.training)))

    def missed(
        self, latents: Float[Tensor, "n 4 h w"], frames: Square, named: Int[Tensor, "n facts"]
    ) -> Float[Tensor, " n"]:
        """Cross entropy summed over the facts that are named and seen (below 0 elsewhere)."""
        parts = self(latents, frames).float().split(self.sizes, -1)
        each = [
            F.cross_entropy(part, true.clamp_min(UNNAMED), ignore_index=UNNAMED, reduction="none")
            for part, true in zip(parts, named.unbind(1), strict=True)
        ]
        return torch.stack(each, 1).sum(1)

    @torch.no_grad()
    def told(self, latents: Tensor, frames: Square, named: Tensor) -> dict[str, float]:
        """Share of each fact's values that are told right, where it is shown."""
        parts = self(latents, frames).split(self.sizes, -1)
        right = torch.stack([part.argmax(-1) for part in parts], 1) == named
        shares = {f: right[:, k][named[:, k] >= 0].float().mean() for k, f in enumerate(FACTS)}
        return {fact: round(float(share), 3) for fact, share in shares.items()}


class Way(nn.Module):
    """Convolutions, ever coarser, ending on a grid of 4 x 4 places, as one vector."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.ReLU()]
        for before, width in zip((widths[0], *widths), widths, strict=False):
            blocks.append(Block(before, width))
        self.body = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 16 * last width]."""
        return F.adaptive_avg_pool2d(self.body(x), 4).flatten(1)


class Block(nn.Module):
    """Two convolutions, the first of stride 2, beside a straight way."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.straight = nn.Conv2d(before, width, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Half as high and wide."""
        return F.relu(self.body(x) + self.straight(x))


def frames_of(scenes: Sequence[Scene]) -> Square:
    """Where the first face of each scene is, told by the record alone: nothing has to be drawn. The middle of the
    picture where there is nobody."""
    frames = []
    for scene in scenes:
        if not scene.people:
            frames.append((0.5, 0.5, 0.5, 0.0))
            continue
        m, _ = measure(posed(scene, 0), scene, 0)
        up = RISE * m["unit"]
        frames.append(
            (m["hx"] + up * m["sin"], m["hy"] - up * m["cos"], REACH * m["unit"], math.atan2(m["sin"], m["cos"]))
        )
    return torch.tensor(frames)


def named_in(captions: Sequence[str], scenes: Sequence[Scene]) -> Int[Tensor, "captions facts"]:
    """Which value of every fact a caption names, `UNNAMED` where it names none. A name names all that it stands for,
    and is `UNSEEN` where the picture does not show that, or shows dyed hair. So is, in pictures of two people or of
    nobody, all that is not true of the whole picture."""
    found = []
    for caption, scene in zip(captions, scenes, strict=True):
        said = read(caption).facts
        if len(scene.people) != 1:
            silent = {f: UNNAMED if f in WHOLE else UNSEEN for f in FACTS}
            found.append([VALUES[f].index(said[f]) if f in WHOLE and f in said else silent[f] for f in FACTS])
            continue
        who = scene.people[0]
        by_name = IDENTITY_FACTS if who.name is not None and who.name in caption else ()
        if by_name:
            own = {"hair colour"} if who.hair_colour != who.identity.hair_colour else set()
            said = {f: v for f, v in shown(scene).items() if f in by_name and f not in own} | said
        silent = {f: UNSEEN if f in by_name else UNNAMED for f in FACTS}
        found.append([VALUES[f].index(said[f]) if f in said else silent[f] for f in FACTS])
    return torch.tensor(found)


@dataclass(frozen=True)
class Lessons:
    """Latents, where their faces are, and the place of each fact's value, `UNNAMED` where it does not show."""

    latents: Float[Tensor, "n 4 h w"]
    frames: Float[Tensor, "n 4"]
    true: Int[Tensor, "n facts"]

    @staticmethod
    def of_shards(folder: Path) -> Lessons:
        """All that the shards in a folder show."""
        shards = [load_shard(path) for path in sorted(folder.glob("*.safetensors"))]
        scenes = [scene for shard in shards for scene in shard.scenes]
        true = torch.tensor([_answers(scene) for scene in scenes])
        return Lessons(torch.cat([shard.latents for shard in shards]), frames_of(scenes), true)

    def __getitem__(self, rows: Tensor | slice) -> Lessons:
        return Lessons(self.latents[rows].float(), self.frames[rows], self.true[rows].long())


def _answers(scene: Scene) -> list[int]:
    """`labels` of a person alone; of others what is true of the whole picture."""
    if len(scene.people) == 1:
        return labels(scene)
    whole = picture(scene)
    return [VALUES[f].index(whole[f]) if f in WHOLE and f in whole else UNNAMED for f in FACTS]


def train_reader(
    work: Path, lessons: Lessons, minutes: float, *, seed: int = 0, compute: torch.dtype = torch.float32
) -> Reader:
    """Learn what latents show and leave `work/reader.safetensors`; the last pictures are kept back to tell how well it
    reads."""
    device = lessons.latents.device
    kept = min(KEPT, len(lessons.latents) // 4)
    taught, asked = len(lessons.latents) - kept, lessons[slice(-kept, None)]
    torch.manual_seed(seed)
    reader = Reader(lessons.latents.shape[1]).to(device)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=0.05, fused=True)
    began, step = time.monotonic(), 0
    while (spent := (time.monotonic() - began) / 60) < minutes:
        some = lessons[torch.randint(0, taught, (BATCH,)).to(device)]
        with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
            error = reader.missed(worsened(some.latents), shaken(some.frames, SHAKE), some.true).mean() / len(FACTS)
        error.backward()
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * max(0.01, 1 - spent / minutes)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % 250 == 0:
            record(work / "reader.jsonl", step=step, error=round(error.item(), 4), minutes=round(spent, 2))
    record(work / "reader.jsonl", told=reader.eval().told(asked.latents, asked.frames, asked.true))
    save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, work / "reader.safetensors")
    return reader


def load_reader(path: Path) -> Reader:
    """The reader that `train_reader` left, for looking only."""
    weights = load_file(path)
    reader = Reader(weights["picture.body.0.weight"].shape[1])
    reader.load_state_dict(weights)
    return reader.eval().requires_grad_(False)


def worsened(latents: Float[Tensor, "n 4 h w"]) -> Float[Tensor, "n 4 h w"]:
    """Latents as predictions are: some blurred, with more or less noise on them, half of them none."""
    some = lambda: torch.rand(len(latents), 1, 1, 1, device=latents.device)
    blurred = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = (some() - 0.5).clamp_min(0) * 2 * NOISE
    return latents.lerp(blurred, some() * (some() < 0.3)) + noise * torch.randn_like(latents)
