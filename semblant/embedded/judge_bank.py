"""Labelled pictures for judges, drawn once and kept on disk, and what may befall a picture on its way.

A bank is a folder of chunks, each a safetensors file of pictures, face boxes and landmarks. The scene behind picture i
follows from the split and i alone, so labels and captions are made again rather than stored.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from semblant.backbones.faces import SIZE
from semblant.world.beings import KINDS
from semblant.world.captions import compose, read, write
from semblant.world.company import being_of, draw_being_scene, draw_mixed_scene, draw_pair_of_people
from semblant.world.facts import IDENTITY_SCALES, PERSON_SCALES, VALUES, facts, measured, visible
from semblant.world.phrases import can_say
from semblant.world.scene import CHOICES, Identity, Scene, Split, draw_scene, person_of

log = logging.getLogger(__name__)

CHUNK = 500
PER_PERSON = 2
NEGATIVES = 3
ROUND_TRIPS = 0.25
"""Share of a bank that is kept a second time as the autoencoder gives it back."""

FACTS = tuple(VALUES)
NUMBERS = tuple(f.name for f in fields(Identity) if f.name not in CHOICES)
HIDDEN_BELOW_HALF = {"freckles": "freckles", "mole_x": "mole_size", "mole_y": "mole_size", "mole_size": "mole_size"}
"""Numbers of an identity that show only where another one (or itself) is above a half."""


def scene_of(split: Split, index: int) -> Scene:
    """Scene `index` of a bank: a train, tune or heldout person in a random moment, `PER_PERSON` scenes each."""
    rng = random.Random(f"semblant judge scene {split} {index}")
    return draw_scene(rng, person_of(split, index // PER_PERSON))


def parameters(identity: Identity) -> list[float]:
    """Who, as numbers of about unit variance: what shows of each continuous dimension, then hair and eyes as one-hot.

    A mole or freckles that are not drawn count as none, wherever they would have been. Distances between people are
    Euclidean distances between these vectors.
    """
    vector = []
    for name in NUMBERS:
        value = getattr(identity, name)
        if owner := HIDDEN_BELOW_HALF.get(name):
            shows = getattr(identity, owner) >= 0.5
            value = value if shows else 0.5
        vector.append((value - 0.5) * 12**0.5)
    for name, options in CHOICES.items():
        vector += [(getattr(identity, name) == option) - 1 / len(options) for option in options]
    return vector


def labels(scene: Scene) -> list[int]:
    """Per fact of `FACTS` the place of its value, -1 where the picture does not show it."""
    true = facts(scene)
    return [VALUES[f].index(true[f]) if f in true and visible(scene, f) else -1 for f in FACTS]


SIDED = tuple(field for scale in PERSON_SCALES.values() for field in scale.fields if "left" in scale.word(-1.0))
"""Numbers that say left below zero and right above it."""
MEASURED = tuple(field for scale in (*IDENTITY_SCALES.values(), *PERSON_SCALES.values()) for field in scale.fields)
"""Numbers behind the facts that are words on a scale."""


def measures(scene: Scene) -> list[float]:
    """Per number of `MEASURED` its value at about unit variance, NaN where the picture hides it. What is too faint to
    be drawn is as if it stood at the border."""
    found = []
    for field, value in measured(scene).items():
        if value is None:
            found.append(float("nan"))
        elif field in SIDED:
            found.append(value * 3**0.5)
        else:
            found.append((max(value, 0.5) if field in HIDDEN_BELOW_HALF.values() else value) * 12**0.5 - 3**0.5)
    return found


def contradicted(named: Int[Tensor, "texts facts"], true: Int[Tensor, "pictures facts"]) -> Tensor:
    """[texts, pictures]: whether the text names a value that the picture shows to be false. -1: unnamed, not shown."""
    named, true = named[:, None], true[None]
    return ((named >= 0) & (true >= 0) & (named != true)).any(-1)


def captioned(scene: Scene, rng: random.Random, negatives: int = NEGATIVES) -> tuple[list[str], list[list[int]]]:
    """A caption of the scene and `negatives` versions of it in which one named fact is false; the facts each names."""
    said: dict[str, str] = {}
    while not said:
        text = write(scene, rng)
        said = read(text).facts
    seed = rng.randrange(2**31)
    texts, named = [compose(said, random.Random(seed), camera=scene.camera, style=scene.style)], [said]
    for _ in range(negatives):
        fact = rng.choice(list(said))
        others = [v for v in VALUES[fact] if v != said[fact] and can_say(fact, v)]
        false = said | {fact: rng.choice(others)} if others else said
        texts.append(compose(false, random.Random(seed), camera=scene.camera, style=scene.style))
        named.append(false)
    return texts, [[VALUES[f].index(facts_of[f]) if f in facts_of else -1 for f in FACTS] for facts_of in named]


def company_of(split: Split, index: int) -> Scene:
    """Scene `index` of those that do not show one person alone: of five three show two people, one an animal or thing,
    one a person beside one."""
    rng = random.Random(f"semblant judge company {split} {index}")
    somebody = lambda: person_of(split, rng.randrange(10**9))
    kind = index % 5
    if kind < 3:
        return draw_pair_of_people(rng, somebody(), somebody())
    other = being_of(rng.choice(KINDS), split, rng.randrange(10**9))
    return draw_being_scene(rng, other) if kind == 3 else draw_mixed_scene(rng, somebody(), other)


@dataclass(frozen=True)
class Crowds:
    """Pictures of none, one or two people, from `company_of`; boxes are zeros where nobody is."""

    images: UInt8[Tensor, "n 3 s s"]
    boxes: Float[Tensor, "n 2 4"]
    landmarks: Float[Tensor, "n 2 5 2"]


@dataclass(frozen=True)
class Bank:
    """Pictures and everything known about them, row by row."""

    split: Split
    images: UInt8[Tensor, "n 3 s s"]
    boxes: Float[Tensor, "n 4"]
    """Left, top, right, bottom of the head in pixels."""
    landmarks: Float[Tensor, "n 5 2"]
    round_trips: UInt8[Tensor, "m 3 s s"]
    """The first m pictures as the autoencoder gives them back; m may be 0."""
    crowds: Crowds | None = None
    marks: UInt8[Tensor, "n 2 half half"] | None = None
    """Where freckles and moles are, 0..255, at half the size; None when nobody asked for it."""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def scenes(self) -> list[Scene]:
        return [scene_of(self.split, index) for index in range(len(self))]

    @cached_property
    def labels(self) -> Int[Tensor, "n facts"]:
        return torch.tensor([labels(scene) for scene in self.scenes])

    @cached_property
    def measures(self) -> Float[Tensor, "n measures"]:
        return torch.tensor([measures(scene) for scene in self.scenes])

    @cached_property
    def people(self) -> Float[Tensor, "n parameters"]:
        return torch.tensor([parameters(scene.people[0].identity) for scene in self.scenes])

    def pictures(self, rows: Int[Tensor, " k"]) -> Float[Tensor, "k 3 s s"]:
        return self.images[rows].float() / 255


def draw(scenes: list[Scene], size: int = SIZE, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (uint8), head boxes and landmarks (pixels) of scenes with one person each."""
    images, boxes, landmarks = draw_all(scenes, size, device)
    return images, boxes[:, 0], landmarks[:, 0]


def draw_all(scenes: list[Scene], size: int = SIZE, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (uint8), head boxes and landmarks (pixels) of every person, zeros beyond those of a scene."""
    from semblant.world.renderer import render

    drawn = render(scenes, size, device)
    return whole_numbers(drawn.image), drawn.boxes.float().cpu(), drawn.landmarks.float().cpu()


def whole_numbers(images: Float[Tensor, "n 3 s s"]) -> UInt8[Tensor, "n 3 s s"]:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _chunks(total: int) -> Iterator[range]:
    return (range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK))


def fill(
    folder: Path,
    split: Split,
    total: int,
    device: str = "cpu",
    round_trip: Callable[[Tensor], Tensor] | None = None,
    draw_at_once: int = 64,
    crowds: int = 0,
    marks: bool = False,
) -> Bank:
    """The first `total` pictures of a split, and `crowds` that show not one person alone; with `marks` where freckles
    and moles are. Only what the folder lacks is drawn, so interrupted work goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("images", "boxes", "landmarks")
    alone = lambda scenes: dict(zip(names, draw(scenes, SIZE, device), strict=True))
    together = draw_lacking(folder, split, total, partial(scene_of, split), alone, draw_at_once)
    back = together["images"][:0]
    if round_trip is not None:
        back = _round_trips(folder, split, together["images"][: int(total * ROUND_TRIPS)], round_trip)
    company = _crowds(folder, split, crowds, device, draw_at_once) if crowds else None
    where = _marks(folder, split, together["images"], device, draw_at_once) if marks else None
    return Bank(split, together["images"], together["boxes"], together["landmarks"], back, company, where)


MARKED = (("freckles", {"freckles": 0.0}), ("mole", {"mole_size": 0.0}))
"""Facts that are marks on the skin, and what of an identity takes them away."""
SHOWS = 60
"""Difference in a colour, of 255, at which a mark covers its place wholly."""


def _marks(folder: Path, split: Split, images: Tensor, device: str, draw_at_once: int) -> UInt8[Tensor, "n 2 h w"]:
    loaded = []
    some = lambda rows: marks_of([scene_of(split, i) for i in rows], images[rows], device)
    for rows in _chunks(len(images)):
        path = folder / f"{split}-marks-{rows.start:06d}-{len(rows)}.safetensors"
        if _outdated(path, partial(some, rows[:1]), "marks"):
            parts = [rows[at : at + draw_at_once] for at in range(0, len(rows), draw_at_once)]
            _write({"marks": torch.cat([some(part) for part in parts])}, path)
            log.info("%s: marks of %d of %d pictures", split, rows.stop, len(images))
        loaded.append(load_file(path)["marks"])
    return torch.cat(loaded)


def marks_of(scenes: list[Scene], images: UInt8[Tensor, "n 3 s s"], device: str = "cpu") -> UInt8[Tensor, "n 2 h w"]:
    """Where the freckles and the mole of the first person are, where either is said to show: what differs from pictures
    of the same people without them."""
    marks = torch.zeros(len(scenes), len(MARKED), *(side // 2 for side in images.shape[-2:]))
    for place, (fact, none) in enumerate(MARKED):
        rows = [row for row, scene in enumerate(scenes) if facts(scene)[fact] == "yes" and visible(scene, fact)]
        if rows:
            bare = draw([_without(scenes[row], none) for row in rows], images.shape[-1], device)[0]
            differs = (bare.float() - images[rows].float()).abs().amax(1)
            marks[rows, place] = F.avg_pool2d((differs / SHOWS).clamp(0, 1), 2)
    return (marks * 255).round().to(torch.uint8)


def _without(scene: Scene, none: Mapping[str, Any]) -> Scene:
    return scene.change(identity=replace(scene.people[0].identity, **none))


def _crowds(folder: Path, split: Split, total: int, device: str, draw_at_once: int) -> Crowds:
    names = ("images", "boxes", "landmarks")
    crowd = lambda scenes: dict(zip(names, map(_of_two, draw_all(scenes, SIZE, device)), strict=True))
    scene = lambda index: company_of(split, index)
    return Crowds(**draw_lacking(folder, f"{split}-crowds", total, scene, crowd, draw_at_once))


def draw_lacking(
    folder: Path,
    name: str,
    total: int,
    scene: Callable[[int], Scene],
    made: Callable[[list[Scene]], dict[str, Tensor]],
    draw_at_once: int = 64,
) -> dict[str, Tensor]:
    """What `made` gives of the first `total` scenes, pictures as "images"; only what the folder lacks is drawn."""
    loaded = []
    for rows in _chunks(total):
        path = folder / f"{name}-{rows.start:06d}-{len(rows)}.safetensors"
        if _outdated(path, partial(lambda index: made([scene(index)])["images"], rows.start)):
            parts = [
                made([scene(index) for index in rows[at : at + draw_at_once]])
                for at in range(0, len(rows), draw_at_once)
            ]
            _write({what: torch.cat([part[what] for part in parts]) for what in parts[0]}, path)
            log.info("%s: %d of %d pictures drawn", name, rows.stop, total)
        loaded.append(load_file(path))
    return {what: torch.cat([chunk[what] for chunk in loaded]) for what in loaded[0]}


def _of_two(part: Tensor) -> Tensor:
    """What is told of people, for two of them; pictures stay as they are."""
    from semblant.world.renderer import widen

    return part if part.dtype == torch.uint8 else widen(part, 2)[:, :2]


def _outdated(path: Path, first: Callable[[], Tensor], what: str = "images") -> bool:
    """Whether a chunk is missing, or its first picture would be another by now: then it teaches what is not true."""
    if not path.exists():
        return True
    outdated = float((first().float() - load_file(path)[what][:1].float()).abs().mean()) > 1
    if outdated:
        log.warning("the world or the autoencoder has changed since %s was drawn; drawing it again", path.name)
    return outdated


def _round_trips(folder: Path, split: str, images: Tensor, round_trip: Callable[[Tensor], Tensor]) -> Tensor:
    @torch.no_grad()
    def back(rows: range) -> Tensor:
        parts = (images[at : min(at + 16, rows.stop)].float() / 255 for at in rows[::16])
        return torch.cat([(round_trip(part).clamp(0, 1) * 255).round().to(torch.uint8).cpu() for part in parts])

    loaded = []
    for rows in _chunks(len(images)):
        path = folder / f"{split}-back-{rows.start:06d}-{len(rows)}.safetensors"
        if _outdated(path, partial(back, rows[:1])):
            _write({"images": back(rows)}, path)
        loaded.append(load_file(path)["images"])
    return torch.cat(loaded) if loaded else images[:0]


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    unfinished = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.replace(path)


# Quantisation tables of the JPEG standard (ITU-T T.81, annex K.1).
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(images: Float[Tensor, "n 3 s s"], quality: float) -> Float[Tensor, "n 3 s s"]:
    """What JPEG of a quality in 1..100 leaves of pictures (0..1) whose sides are multiples of 16."""
    factor = (50 / quality if quality < 50 else 2 - quality / 50) / 255
    to_ycc = torch.tensor(_TO_YCC, device=images.device)
    ycc = torch.einsum("cd,ndhw->nchw", to_ycc, images)
    ycc[:, 0] -= 0.5
    k = torch.arange(8.0, device=images.device)
    basis = torch.cos((2 * k + 1) * k[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5

    def channel(plane: Tensor, table: str) -> Tensor:
        steps = (torch.tensor([float(v) for v in table.split()], device=plane.device) * factor).clamp_min(1 / 255)
        blocks = plane.unfold(-2, 8, 8).unfold(-2, 8, 8)
        waves = basis @ blocks @ basis.T
        kept = (waves / steps.view(8, 8)).round() * steps.view(8, 8)
        return (basis.T @ kept @ basis).transpose(-3, -2).reshape(plane.shape)

    luma = channel(ycc[:, :1], _LUMA)
    # decoders smooth the halved colours
    chroma = F.interpolate(
        channel(F.avg_pool2d(ycc[:, 1:], 2), _CHROMA), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    back = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(to_ycc), torch.cat([luma + 0.5, chroma], 1))
    return back.clamp(0, 1)


@torch.autocast("cpu", enabled=False)
def degrade(images: Float[Tensor, "n 3 s s"], generator: torch.Generator) -> Float[Tensor, "n 3 s s"]:
    """Each picture a little worse in one way, or none: noise, blur, JPEG, another exposure."""
    images = images.clone()
    n, device = len(images), images.device
    kind = torch.randint(0, 6, (n,), generator=generator)
    strength = torch.rand(n, generator=generator)
    if len(rows := (kind == 0).nonzero()[:, 0]):
        noise = torch.randn(images[rows].shape, generator=generator).to(device)
        images[rows] += noise * (strength[rows, None, None, None] * 0.06).to(device)
    if len(rows := (kind == 1).nonzero()[:, 0]):
        small = F.interpolate(
            images[rows], scale_factor=0.5 + 0.4 * float(strength[0]), mode="bilinear", antialias=True
        )
        images[rows] = F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    if len(rows := ((kind == 2) | (kind == 3)).nonzero()[:, 0]):
        images[rows] = jpeg(images[rows], 35 + 60 * float(strength[0]))
    if len(rows := (kind == 4).nonzero()[:, 0]):
        gain = 1 + 0.12 * (torch.rand(len(rows), 3, 1, 1, generator=generator) - 0.5)
        images[rows] = images[rows] * gain.to(device)
    return images.clamp(0, 1)
