"""Two people in one picture: is each of them who they should be, and does each have what the prompt says of them?

Prompts that name facts of "the left one" and "the right one" say whose is what; two learned words are the left and the
right person in their order. Faces are told from left to right, the two largest of a picture count, and a picture with
fewer has nothing right. What judges read of one of two is read from a crop in which that one stands alone, as far as
their neighbour lets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.faces import MARGIN, SIZE, Face, Frame, crops, frame_of
from semblant.backbones.judges import Judges
from semblant.metrics.detection import look
from semblant.metrics.identity import placed, same_person_level, stranger_level
from semblant.world.captions import read
from semblant.world.prompts import TOLD_APART

FACTS = TOLD_APART
"""What is read of one of two. Of 200 renders of two people, cut apart where their faces truly are, the reader tells 94
to 99 in 100 of each right (expressions 84); smaller things drown in faces half as large as in portraits."""
PORTRAIT = 0.5
"""How much of a crop the longer side of a face fills, as in portraits of the world."""
LOWER = 0.12
"""How far below a face the middle of its crop lies, in sides of the crop: there shoulders are."""


@dataclass(frozen=True)
class Binding:
    """What pictures of two people show of what was said of each."""

    n: int
    two: float
    """Share of pictures with two faces."""
    facts: float | None
    """Mean share of the facts said of one of two that hold of that one."""
    both: float | None
    """Share of pictures in which everything said of both holds."""
    exchanged: float | None
    """Share of the facts said of one alone that are seen on the other instead."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Company:
    """Whether two people are themselves in pictures of both."""

    n: int
    two: float
    left: float | None
    """Identity gain of the left one: 0 like strangers, 1 like other pictures of the person; None where the references
    of that one are as far apart as strangers."""
    right: float | None
    swapped: float
    """Share of pictures in which each is liker to the other one."""
    blended: float
    """Share of pictures in which both faces are likest to the same of the two."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)


@torch.no_grad()
def binding(images: Any, prompts: Sequence[str], judges: Judges) -> Binding:
    """Who has what, for pictures (PIL, or tensors in 0..1) and a prompt each that tells of a left and a right one."""
    said = [tuple({f: v for f, v in side.items() if f in FACTS} for side in sides(prompt)) for prompt in prompts]
    shares: list[float] = []
    whole: list[bool] = []
    gone: list[bool] = []
    shown = facts_of_two(images, judges)
    for reading, wanted in zip(shown, said, strict=True):
        if not any(wanted):
            continue
        seen = reading or ({}, {})
        hits = [seen[who].get(fact) == value for who in (0, 1) for fact, value in wanted[who].items()]
        shares.append(sum(hits) / len(hits))
        whole.append(all(hits))
        for who in (0, 1):
            foreign = {f: v for f, v in wanted[who].items() if wanted[1 - who].get(f) != v}
            gone += [seen[1 - who].get(f) == v and seen[who].get(f) != v for f, v in foreign.items()]
    return Binding(
        len(shown), _mean([reading is not None for reading in shown]) or 0.0, _mean(shares), _mean(whole), _mean(gone)
    )


def sides(prompt: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a prompt says of the left and of the right person."""
    reading = read(prompt)
    return reading.left, reading.right


@torch.no_grad()
def facts_of_two(images: Any, judges: Judges) -> list[tuple[dict[str, str], dict[str, str]] | None]:
    """Per picture what the reader sees of the left and of the right person; None where there are not two faces."""
    seen = look(images, judges)
    shown: list[tuple[dict[str, str], dict[str, str]] | None] = []
    for image, faces in zip(seen.images, seen.faces, strict=True):
        if (two := _two(faces)) is None:
            shown.append(None)
            continue
        alone, frames = apart(image, [faces[i] for i in two])
        one, other = judges.attributes.read(alone, frames)
        shown.append((one, other))
    return shown


def apart(image: Float[Tensor, "3 s s"], faces: Sequence[Face]) -> tuple[Float[Tensor, "faces 3 {SIZE} {SIZE}"], Frame]:
    """Each face's crop, in which it is as large as in a portrait, and its frame in that crop."""
    frames = torch.cat([frame_of(face, image.shape[-1]) for face in faces]).to(image)
    x, y, half, angle, features_x, features_y, features_apart = frames.unbind(-1)
    side = 2 * half / MARGIN / PORTRAIT
    down = LOWER * side
    places = torch.stack([x, y + down, side / 2, torch.zeros_like(x)], -1)
    alone = crops(image.expand(len(faces), -1, -1, -1), places, SIZE)
    middle = torch.full_like(x, 0.5)
    features = (features_x - x) / side + 0.5, (features_y - y - down) / side + 0.5, features_apart / side
    return alone, torch.stack([middle, middle - down / side, half / side, angle, *features], -1)


@torch.no_grad()
def company(images: Any, references: Sequence[Float[Tensor, "references dim"]], judges: Judges) -> Company:
    """Who is who, for pictures of two people and the identity vectors of both, the left one's first.

    A picture with fewer than two faces shows strangers. Raises ValueError unless there are references of two.
    """
    left, right = references
    own = [same_person_level(vectors, judges.card["same_person"]) for vectors in (left, right)]
    nobody = [stranger_level(vectors, judges.strangers) for vectors in (left, right)]
    likeness: list[list[float | None]] = [[], []]
    swapped, blended, two = [], [], []
    for faces, vectors in zip((seen := look(images, judges)).faces, seen.identities, strict=True):
        pair = _two(faces)
        two.append(pair is not None)
        if pair is None:
            for each in likeness:
                each.append(None)
            continue
        alike = torch.stack([(vectors[list(pair)] @ known.T).mean(1) for known in (left, right)], 1)
        for who, each in enumerate(likeness):
            each.append(float(alike[who, who]))
        likest = alike.argmax(1).tolist()
        swapped.append(likest == [1, 0])
        blended.append(likest[0] == likest[1])
    rate = lambda found: sum(found) / len(two) if two else 0.0
    gains = [placed(each, *levels) for each, *levels in zip(likeness, nobody, own, strict=True)]
    return Company(len(two), rate(two), gains[0], gains[1], rate(swapped), rate(blended))


def _two(faces: Sequence[Face]) -> tuple[int, int] | None:
    """Which faces are the two largest, from left to right; None where there are fewer."""
    if len(faces) < 2:
        return None
    largest = sorted(range(len(faces)), key=lambda i: -faces[i].area)[:2]
    one, other = sorted(largest, key=lambda i: faces[i].box[0] + faces[i].box[2])
    return one, other


def _mean(values: Sequence[float | bool]) -> float | None:
    return sum(values) / len(values) if values else None
