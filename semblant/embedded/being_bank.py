"""Labelled pictures of animals and things for their judge, and what it learns from them.

The scene behind picture i follows from the split and i alone, so labels are made again rather than stored.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from semblant.backbones.being_judge import NONE, WIDER, Beings, square_of
from semblant.backbones.faces import SIZE, Square, shaken
from semblant.embedded.judge_bank import degrade, draw_all, draw_lacking, whole_numbers
from semblant.embedded.judge_steps import isometry, mirrored_labels, mirrored_values
from semblant.embedded.ranks import auc, pairs_of
from semblant.world.being_facts import VALUES as ALL
from semblant.world.being_facts import shown_of
from semblant.world.beings import FURS, KINDS, PAINT_PATTERNS, PAINTS, AnimalIdentity, BeingIdentity, ThingIdentity
from semblant.world.company import being_of, draw_being_scene, draw_mixed_scene
from semblant.world.renderer import render, widen
from semblant.world.scene import Scene, Split, draw_scene, person_of

log = logging.getLogger(__name__)

FACTS = ("kind", "colour", "pattern", "second colour", "ears", "tail", "body", "shape", "pose", "facing")
VALUES: dict[str, tuple[str, ...]] = {fact: (*ALL[fact], NONE) if fact == "kind" else ALL[fact] for fact in FACTS}
MIRRORED = mirrored_values(VALUES, FACTS)
PER_BEING = 2
NOBODY = 9
"""Of so many pictures one shows a person and nothing else; of the others a fifth show a person beside."""
BATCH, STRANGERS, SCALE = 64, 256, 16.0
EMPTY = 0.06
"""Share of what is learned from that is no picture of anything."""
SHAKE = (0.1, 0.1, 0.13, 0.0)
"""How much the judge errs in finding an animal or thing, as `faces.shaken` wants it: measured on 400 of `tune`."""
UNSEEN = ("mark_seed",)
"""Numbers of an identity that settle where its marks lie, as by chance."""
NUMBERS = {
    record: tuple(f.name for f in fields(record) if f.type == "float" and f.name not in UNSEEN)
    for record in (AnimalIdentity, ThingIdentity)
}
COLOURS = tuple(dict.fromkeys((*FURS, *PAINTS)))


def being_scene_of(split: Split, index: int) -> Scene:
    """Scene `index` of a bank: each animal or thing in `PER_BEING` moments, every kind in turn."""
    rng = random.Random(f"semblant judge being {split} {index}")
    somebody = lambda: person_of(split, rng.randrange(10**9))
    if index % NOBODY == NOBODY - 1:
        return draw_scene(rng, somebody())
    who = index // PER_BEING
    identity = being_of(KINDS[who % len(KINDS)], split, who // len(KINDS))
    return draw_mixed_scene(rng, somebody(), identity) if rng.random() < 0.2 else draw_being_scene(rng, identity)


def parameters(identity: BeingIdentity) -> list[float]:
    """Which one, as numbers: its kind far from all others, its colours and pattern, and its dimensions around zero."""
    own: list[float] = [3.0 * (identity.kind == kind) for kind in KINDS]
    first = identity.fur if isinstance(identity, AnimalIdentity) else identity.colour
    second = identity.second if identity.pattern != "plain" or isinstance(identity, ThingIdentity) else ""
    own += [1.5 * (first == colour) for colour in COLOURS] + [1.0 * (second == colour) for colour in COLOURS]
    own += [1.5 * (identity.pattern == pattern) for pattern in PAINT_PATTERNS]
    for record, names in NUMBERS.items():
        mine = isinstance(identity, record)
        own += [2 * getattr(identity, name) - 1 if mine else 0.0 for name in names]
    return own


def labels(scene: Scene) -> list[int]:
    """Per fact of `FACTS` the place of its value, -1 where the picture does not show it."""
    true = shown_of(scene, 0) if scene.others else {"kind": NONE}
    return [VALUES[fact].index(true[fact]) if fact in true else -1 for fact in FACTS]


@dataclass(frozen=True)
class BeingBank:
    """Pictures of animals and things, and what they show."""

    split: Split
    images: UInt8[Tensor, "n 3 s s"]
    boxes: Float[Tensor, "n 4"]
    """Left, top, right, bottom of the animal or thing in pixels; zeros where there is none."""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def scenes(self) -> list[Scene]:
        return [being_scene_of(self.split, index) for index in range(len(self))]

    @cached_property
    def labels(self) -> Int[Tensor, "n facts"]:
        return torch.tensor([labels(scene) for scene in self.scenes])

    @cached_property
    def beings(self) -> Float[Tensor, "n parameters"]:
        """NaN where there is no animal or thing."""
        nothing = [float("nan")] * len(parameters(being_of(KINDS[0], self.split, 0)))
        return torch.tensor([parameters(s.others[0].identity) if s.others else nothing for s in self.scenes])


def fill_beings(folder: Path, split: Split, total: int, device: str = "cpu", draw_at_once: int = 64) -> BeingBank:
    """The first `total` pictures of a split; only what the folder lacks is drawn."""
    folder.mkdir(parents=True, exist_ok=True)

    def found(scenes: list[Scene]) -> dict[str, Tensor]:
        drawn = render(scenes, SIZE, device)
        return {"images": whole_numbers(drawn.image), "boxes": widen(drawn.other_boxes.float().cpu(), 1)[:, 0]}

    scene = lambda index: being_scene_of(split, index)
    return BeingBank(split, **draw_lacking(folder, f"{split}-animals-and-things", total, scene, found, draw_at_once))


def nothing(images: Float[Tensor, "n 3 s s"], generator: torch.Generator) -> Float[Tensor, "n 3 s s"]:
    """As many pictures without anything in them: one colour, or patches of noise, coarse or fine."""
    made = []
    for _ in images:
        cells = int(2 ** torch.randint(0, 7, (1,), generator=generator))
        patches = torch.rand(1, 3, cells, cells, generator=generator)
        made.append(F.interpolate(patches, size=images.shape[-2:], mode="bilinear", align_corners=False))
    return torch.cat(made) if made else images


def beings_step(bank: BeingBank, seed: int, device: str) -> Any:
    """Cross entropy of the facts shown; estimates lie near the numbers of the one, and find it among others of its
    kind. Half of the pictures are mirrored."""
    project = projection(seed, bank.beings.shape[1]).to(device)
    star = bank.beings.shape[1] - len(NUMBERS[ThingIdentity]) + NUMBERS[ThingIdentity].index("mark_x")
    rng = random.Random(seed)
    crowd = torch.stack(
        [
            torch.tensor([parameters(being_of(kind, "train", rng.randrange(10**9))) for _ in range(STRANGERS)])
            for kind in KINDS
        ]
    )

    def step(judge: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(judge, Beings)
        rows = torch.randint(0, len(bank), (BATCH,), generator=generator)
        which = torch.rand(BATCH, generator=generator) < 0.5
        images = degrade(bank.images[rows].float() / 255, generator)
        images = torch.where(which[:, None, None, None], images.flip(-1), images)
        empty = torch.rand(BATCH, generator=generator) < EMPTY
        images[empty] = nothing(images[empty], generator)
        there = bank.boxes[rows].any(1) & ~empty
        boxes = mirrored_boxes(bank.boxes[rows] / SIZE, which)
        images = images.to(device)
        seen, covered = judge.find(images)
        squares = torch.where(
            there[:, None].to(device),
            shaken(squares_around(boxes), SHAKE, generator).to(device),
            square_of(covered.detach()),
        )
        logits, estimate = judge.look_at(images, seen, squares)
        found = F.binary_cross_entropy_with_logits(covered, places_in(boxes, there, covered.shape[-1]).to(covered))
        true = mirrored_labels(bank.labels[rows], which, MIRRORED)
        true[empty] = torch.tensor([VALUES["kind"].index(NONE), *[-1] * (len(FACTS) - 1)])
        true = true.to(device)
        told = [
            F.cross_entropy(logits[fact].float(), true[:, place], ignore_index=-1, reduction="sum") / BATCH
            for place, fact in enumerate(FACTS)
        ]
        if not there.any():
            return torch.stack(told).mean() + found
        people = bank.beings[rows].clone()
        # In a mirrored picture a star is on the other side.
        people[which, star] *= -1
        numbers = people[there].to(device)
        estimate = estimate.float()[there.to(device)]
        missed = F.smooth_l1_loss(estimate @ project.T, numbers, beta=0.5)
        kinds = bank.labels[rows[there], 0]  # an animal's or thing's kind is never hidden
        others = crowd[kinds][:, torch.randperm(STRANGERS, generator=generator)[: STRANGERS // 2]].to(device)
        targets = F.normalize(torch.cat([numbers[:, None], others], 1) @ project, dim=-1)
        alike = SCALE * (F.normalize(estimate, dim=-1)[:, None] * targets).sum(-1)
        own = torch.zeros(len(alike), dtype=torch.long, device=device)
        return torch.stack(told).mean() + found + 3 * missed + 0.1 * F.cross_entropy(alike, own)

    return step


def mirrored_boxes(boxes: Float[Tensor, "n 4"], which: Tensor) -> Float[Tensor, "n 4"]:
    """Boxes as fractions of the picture's side, some of them in a mirrored picture."""
    return torch.where(
        which[:, None], torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1), boxes
    )


def squares_around(boxes: Float[Tensor, "n 4"]) -> Square:
    """Upright squares around boxes, `WIDER` than their longer side."""
    low, high = boxes[:, :2], boxes[:, 2:]
    half = (high - low).amax(1, keepdim=True) / 2 * WIDER
    return torch.cat([(low + high) / 2, half, torch.zeros_like(half)], 1)


def places_in(boxes: Float[Tensor, "n 4"], there: Tensor, side: int) -> Float[Tensor, "n side side"]:
    """Which places of a grid over the picture lie in each box; none where nothing is there."""
    steps = (torch.arange(side) + 0.5) / side
    within = lambda low, high: (steps >= low[:, None]) & (steps <= high[:, None])
    inside = within(boxes[:, 1], boxes[:, 3])[:, :, None] & within(boxes[:, 0], boxes[:, 2])[:, None]
    return (inside & there[:, None, None]).float()


DIM = 96


def projection(seed: int, inputs: int) -> Tensor:
    """An isometry from the numbers of an animal or thing to identity vectors."""
    return isometry(seed, inputs, DIM)


OF_A_KIND = 16
"""Animals and things of each kind that are nobody's subject, and as many again in two moments each."""
AT_ONCE = 64


@torch.no_grad()
def strange_beings(judge: Beings, device: str = "cpu") -> tuple[Float[Tensor, "kinds n dim"], float]:
    """Vectors of animals and things that are nobody's subject, kind by kind; and how alike one is to itself in another
    moment, the mean over others."""
    rng = random.Random("semblant strange beings")
    draw = lambda first, times: [
        draw_being_scene(rng, being_of(kind, "tune", first + i))
        for kind in KINDS
        for i in range(OF_A_KIND)
        for _ in range(times)
    ]
    strangers = _vectors(judge, draw(0, 1), device)
    twice = _vectors(judge, draw(OF_A_KIND, 2), device)
    return strangers.unflatten(0, (len(KINDS), -1)).half(), float((twice[::2] * twice[1::2]).sum(-1).mean())


@torch.no_grad()
def look_at_beings(judge: Beings, count: int, device: str = "cpu") -> tuple[dict[str, float], float]:
    """Of held-out animals and things: the share of each fact's values that is told right, and the chance that two
    pictures of one are more alike than pictures of two of a kind. Three times `count` pictures are drawn."""
    scenes = [being_scene_of("heldout", index) for index in range(3 * count)]
    true = torch.tensor([labels(scene) for scene in scenes])
    images = _drawn(scenes, device)
    read = [reading for part in images.split(AT_ONCE) for reading in judge.read(part)]
    told = {}
    for place, fact in enumerate(FACTS):
        rows = (true[:, place] >= 0).nonzero()[:, 0].tolist()
        right = [judge.values[fact][int(true[row, place])] == read[row][fact] for row in rows]
        told[fact] = sum(right) / max(1, len(right))
    there = [row for row, scene in enumerate(scenes) if scene.others]
    vectors = torch.cat([judge(part) for part in images[there].split(AT_ONCE)])
    same, different = pairs_of(torch.tensor([row // PER_BEING for row in there]))
    kinds = true[there, 0]
    alike = vectors @ vectors.T
    return told, auc(alike[same], alike[different & (kinds[:, None] == kinds[None])])


def _vectors(judge: Beings, scenes: list[Scene], device: str) -> Tensor:
    return torch.cat([judge(part) for part in _drawn(scenes, device).split(AT_ONCE)])


def _drawn(scenes: list[Scene], device: str) -> Tensor:
    parts = [draw_all(scenes[at : at + AT_ONCE], SIZE, device)[0] for at in range(0, len(scenes), AT_ONCE)]
    return torch.cat(parts).float().to(device) / 255
