"""What the judges must be worth before their verdicts count, measured on people drawn for nothing else.

`calibrate` measures the constants of the metrics on `tune` people and ships strangers; `gates` measures on `heldout`
people; `write_card` keeps both beside the weights. A gate states its value also when it is missed; a line without a bar
is there to compare: a colour histogram and an untrained network stand beside identity B.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from semblant.backbones.faces import SIZE, crops, largest, overlap
from semblant.backbones.judges import Identity as IdentityNetwork
from semblant.backbones.judges import Judges, bare_judges, load_judges, weights_folder
from semblant.embedded.being_bank import look_at_beings, strange_beings
from semblant.embedded.judge_bank import (
    FACTS,
    captioned,
    company_of,
    contradicted,
    draw,
    draw_all,
    jpeg,
    labels,
    parameters,
)
from semblant.embedded.judges import network
from semblant.embedded.ranks import auc, pairs_of, spearman
from semblant.metrics.clip_score import clip_scores
from semblant.metrics.copying import perceptual_distances
from semblant.metrics.detection import AT_ONCE, Seen, look
from semblant.metrics.identity import same_person_level
from semblant.metrics.report import measure
from semblant.world.captions import write
from semblant.world.prompts import demo_prompts
from semblant.world.scene import STYLES, Identity, Scene, Split, draw_scene, person_of

PEOPLE = 100
STRANGERS = 64
CAPTIONS = 16
"""Of every picture, in calibrating: with one, the threshold that a twentieth miss is anything from .36 to .42."""
DRAWN = tuple(style for style in STYLES if style != "photo")
RoundTrip = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gate:
    """One measured value and the bar it has to clear; without a bar it is only stated."""

    name: str
    value: float
    bar: float | None
    passed: bool


def at_least(name: str, value: float, bar: float) -> Gate:
    return Gate(name, round(value, 4), bar, value >= bar)


def at_most(name: str, value: float, bar: float) -> Gate:
    return Gate(name, round(value, 4), bar, value <= bar)


def stated(name: str, value: float) -> Gate:
    return Gate(name, round(value, 4), None, True)


@dataclass(frozen=True)
class Drawn:
    """Scenes, their pictures (0..1) and true boxes."""

    scenes: list[Scene]
    images: Float[Tensor, "n 3 s s"]
    boxes: Float[Tensor, "n 4"]


def pictures_of(
    people: Sequence[Identity],
    each: int,
    seed: str,
    device: str = "cpu",
    styles: Sequence[str] | None = None,
    **fixed: Any,
) -> Drawn:
    """`each` pictures of every person in random moments, person by person; styles of `styles`, other facts as fixed."""
    rng = random.Random(f"semblant gates {seed}")
    scenes = []
    for person in people:
        for _ in range(each):
            style = {"style": rng.choice(styles)} if styles else {}
            scenes.append(draw_scene(rng, person, **style, **fixed))
    parts = [draw(scenes[at : at + 64], SIZE, device) for at in range(0, len(scenes), 64)]
    images, boxes, _ = (torch.cat(part) for part in zip(*parts, strict=True))
    return Drawn(scenes, images.float() / 255, boxes)


def look_alike(person: Identity, rng: random.Random, split: Split) -> Identity:
    """Somebody else with the same skin and hair."""
    same = ("skin", "undertone", "hair_style", "hair_colour", "hair_shade", "hair_volume")
    return replace(person_of(split, rng.randrange(10**9)), **{name: getattr(person, name) for name in same})


def _vectors(images: Tensor, judges: Judges) -> tuple[Tensor, Tensor]:
    """Identity vectors of the largest faces, and the rows of the pictures they are of."""
    seen = look(images, judges)
    rows = torch.tensor([row for row, faces in enumerate(seen.faces) if faces])
    with torch.no_grad():
        parts = zip(seen.images[rows].split(AT_ONCE), seen.frames[rows].split(AT_ONCE), strict=True)
        return torch.cat([judges.identity(images, frames) for images, frames in parts]).cpu(), rows


def _histograms(images: Tensor, judges: Judges) -> Tensor:
    """Colours of the face crop, eight steps per channel, as a unit vector."""
    faces = crops(images, look(images, judges).frames).clamp(0, 0.999)
    steps = (faces * 8).long()
    index = (steps[:, 0] * 64 + steps[:, 1] * 8 + steps[:, 2]).flatten(1)
    return F.normalize(F.one_hot(index, 512).float().mean(1).sqrt(), dim=-1)


def calibrate(folder: Path | None = None, device: str = "cpu") -> dict[str, float]:
    """Measure the constants that metrics need on `tune` people, ship strangers, and write both beside the weights."""
    folder = folder or weights_folder()
    tune = [person_of("tune", index) for index in range(STRANGERS)]
    strangers = pictures_of([person_of("tune", 10_000 + index) for index in range(STRANGERS)], 1, "strangers", device)
    card_file = folder / "card.json"
    card = json.loads(card_file.read_text()) if card_file.exists() else {}
    vectors = {}
    for which in ("A", "B"):
        bare = bare_judges(which, folder)
        vectors[f"identity-{which.lower()}"] = _vectors(strangers.images, bare)[0].half().contiguous()
    vectors["beings"], same_being = strange_beings(bare.beings, device)
    save_file(vectors, folder / "strangers.safetensors")
    drawn = pictures_of(tune, 4, "calibration", device)
    seen = look(drawn.images, bare)
    found, rows = _vectors(drawn.images, bare)
    owners = rows // 4
    groups = [found[owners == who] for who in owners.unique()]
    levels = [same_person_level(group, 0.0) for group in groups if len(group) > 1]
    rng = random.Random("semblant prompts that hold")
    said = ([write(scene, rng) for scene in drawn.scenes] for _ in range(CAPTIONS))
    fits = torch.tensor([clip_scores(seen, captions, bare) for captions in said]).flatten()
    pairs, _ = pairs_of(torch.arange(len(drawn.scenes)) // 4)
    apart = perceptual_distances(drawn.images, drawn.images, bare).cpu()[pairs]
    constants = {
        "same_person": sum(levels) / len(levels),
        "same_being": same_being,
        "clip_threshold": float(fits.quantile(0.05)),
        "copy_distance": float(apart.quantile(0.01)),
    }
    constants = {name: round(value, 5) for name, value in constants.items()}
    _write_card(card_file, card | constants)
    load_judges.cache_clear()
    return constants


def _write_card(path: Path, card: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def write_card(measured: Sequence[Gate], folder: Path | None = None) -> None:
    """Put the measured gates on the card beside the weights."""
    path = (folder or weights_folder()) / "card.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    card["gates"] = {gate.name: {k: v for k, v in asdict(gate).items() if k != "name"} for gate in measured}
    _write_card(path, card)


def gates(
    judges: Judges | None = None, *, people: int = PEOPLE, round_trip: RoundTrip | None = None, device: str = "cpu"
) -> list[Gate]:
    """Measure every judge on heldout people. `round_trip` is the autoencoder, there and back, pictures in 0..1."""
    judges = judges or load_judges("B")
    who = [person_of("heldout", index) for index in range(people)]
    photos = pictures_of(who, 3, "photos", device, ("photo",))
    anything = pictures_of([person_of("heldout", 1000 + i) for i in range(3 * people)], 1, "anything", device)
    return [
        *_identity_gates(judges, who, photos, round_trip, device),
        *_attribute_gates(judges, anything, round_trip),
        *_clip_gates(judges, anything),
        *_detector_gates(judges, photos, anything),
        *_being_gates(judges, people, device),
        _copy_paste_gate(judges, photos),
    ]


def _identity_gates(
    judges: Judges, who: Sequence[Identity], photos: Drawn, round_trip: RoundTrip | None, device: str
) -> list[Gate]:
    found: list[Gate] = []
    rng = random.Random("semblant look-alikes")
    alike = pictures_of([look_alike(person, rng, "heldout") for person in who], 2, "look-alikes", device, ("photo",))
    drawn = pictures_of(who, 3, "drawn", device, DRAWN)
    numbers = torch.tensor([parameters(person) for person in who])

    def against_look_alikes(own: Tensor, owners: Tensor, others: Tensor, their: Tensor) -> float:
        same, _ = pairs_of(owners)
        return auc((own @ own.T)[same], (own @ others.T)[owners[:, None] == their[None]])

    vectors, rows = _vectors(photos.images, judges)
    others, other_rows = _vectors(alike.images, judges)
    owners = rows // 3
    same, different = pairs_of(owners)
    cosines = vectors @ vectors.T
    found.append(at_least("identity B, photo, AUC", auc(cosines[same], cosines[different]), 0.99))
    styled, styled_rows = _vectors(drawn.images, judges)
    cross = styled @ vectors.T
    mine = (styled_rows // 3)[:, None] == owners[None]
    found.append(at_least("identity B, other styles against photos, AUC", auc(cross[mine], cross[~mine]), 0.95))
    value = against_look_alikes(vectors, owners, others, other_rows // 2)
    found.append(at_least("identity B, same skin and hair, AUC", value, 0.95))
    distance = torch.cdist(numbers, numbers)[owners][:, owners]
    found.append(
        at_least("identity B, Spearman with true distance", spearman(cosines[different], -distance[different]), 0.8)
    )
    ways = {"JPEG": lambda images: jpeg(images, 75)}
    if round_trip is not None:
        ways["round trip"] = lambda images: torch.cat([round_trip(part) for part in images.split(16)]).clamp(0, 1)
    for name, way in ways.items():
        after, after_rows = _vectors(way(photos.images), judges)
        both = {row: i for i, row in enumerate(after_rows.tolist())}
        moved = [1 - float(vectors[i] @ after[both[row]]) for i, row in enumerate(rows.tolist()) if row in both]
        share = sum(moved) / len(moved) / (1 - float(cosines[different].mean()))
        found.append(at_most(f"identity B, moved by {name}, of the way to a stranger", share, 0.02))
    colours, other_colours = _histograms(photos.images, judges), _histograms(alike.images, judges)
    value = against_look_alikes(
        colours, torch.arange(len(colours)) // 3, other_colours, torch.arange(len(other_colours)) // 2
    )
    found.append(stated("colour histogram, same skin and hair, AUC", value))
    torch.manual_seed(0)
    untrained = network("identity-b").eval()
    assert isinstance(untrained, IdentityNetwork)
    untrained_judges = replace(judges, identity=untrained)
    own, own_rows = _vectors(photos.images, untrained_judges)
    theirs, their_rows = _vectors(alike.images, untrained_judges)
    value = against_look_alikes(own, own_rows // 3, theirs, their_rows // 2)
    return [*found, stated("untrained network, same skin and hair, AUC", value)]


def _accuracy(judges: Judges, images: Tensor, true: Tensor) -> dict[str, float]:
    seen = look(images, judges)
    right: dict[str, float] = {}
    readings = [
        reading
        for part, frames in zip(seen.images.split(AT_ONCE), seen.frames.split(AT_ONCE), strict=True)
        for reading in judges.attributes.read(part, frames)
    ]
    for place, fact in enumerate(FACTS):
        hits = [
            judges.attributes.values[fact][int(row[place])] == reading[fact]
            for row, reading in zip(true, readings, strict=True)
            if row[place] >= 0
        ]
        if hits:
            right[fact] = sum(hits) / len(hits)
    return right


def _attribute_gates(judges: Judges, drawn: Drawn, round_trip: RoundTrip | None) -> list[Gate]:
    true = torch.tensor([labels(scene) for scene in drawn.scenes])
    right = _accuracy(judges, drawn.images, true)
    mean = sum(right.values()) / len(right)
    found = [at_least("attributes B, mean accuracy", mean, 0.95)]
    if round_trip is not None:
        back = torch.cat([round_trip(part) for part in drawn.images.split(16)]).clamp(0, 1)
        after = _accuracy(judges, back, true)
        found.append(at_most("attributes B, lost by round trip", mean - sum(after.values()) / len(after), 0.03))
    return found + [stated(f"attributes B, {fact}", value) for fact, value in right.items()]


def _clip_gates(judges: Judges, drawn: Drawn, choices: int = 32) -> list[Gate]:
    rng = random.Random("semblant captions to choose from")
    texts, named = zip(*(captioned(scene, rng, negatives=1) for scene in drawn.scenes), strict=True)
    true = torch.tensor([labels(scene) for scene in drawn.scenes])
    wrong = contradicted(torch.tensor([facts[0] for facts in named]), true).T  # [pictures, texts]
    seen = look(drawn.images, judges)
    with torch.no_grad():
        pictures = torch.cat(
            [
                judges.clip.images(part, frames)
                for part, frames in zip(seen.images.split(AT_ONCE), seen.frames.split(AT_ONCE), strict=True)
            ]
        )
        spoken, false = (judges.clip.texts([pair[k] for pair in texts]) for k in (0, 1))
    fits = pictures @ spoken.T
    picked = []
    for row in range(len(drawn.scenes)):
        candidates = wrong[row].nonzero()[:, 0].tolist()
        if len(candidates) >= choices - 1:
            others = rng.sample(candidates, choices - 1)
            picked.append(bool((fits[row, row] > fits[row, others]).all()))
    changed = [pair[0] != pair[1] for pair in texts]
    pairs = (fits.diagonal() > (pictures * false).sum(1))[torch.tensor(changed)]
    return [
        at_least(f"CLIP B, true caption among {choices}", sum(picked) / len(picked), 0.9),
        at_least("CLIP B, one fact changed", float(pairs.float().mean()), 0.8),
    ]


def _being_gates(judges: Judges, count: int, device: str) -> list[Gate]:
    told, likeness = look_at_beings(judges.beings, count, device)
    return [
        at_least("beings, kind", told.pop("kind"), 0.95),
        *(stated(f"beings, {fact}", value) for fact, value in told.items()),
        at_least("beings, among their kind, AUC", likeness, 0.95),
        *_crowd_gates(judges, count, device),
    ]


def _crowd_gates(judges: Judges, count: int, device: str) -> list[Gate]:
    """Of pictures of two people the share in which both faces are found; of animals and things that with none."""
    scenes = [company_of("heldout", index) for index in range(2 * count)]
    images = draw_all(scenes, SIZE, device)[0].float() / 255
    found = [len(faces) for part in images.split(AT_ONCE) for faces in judges.detector.detect(part)]
    share = lambda people: [n == people for n, scene in zip(found, scenes, strict=True) if len(scene.people) == people]
    two, nobody = share(2), share(0)
    return [
        at_least("detector, two people, both faces", sum(two) / len(two), 0.95),
        at_least("detector, animals and things, no face", sum(nobody) / len(nobody), 0.95),
    ]


def _detector_gates(judges: Judges, photos: Drawn, anything: Drawn) -> list[Gate]:
    found = []
    for name, drawn, bar in (("photo", photos, 0.99), ("all styles", anything, None)):
        faces = [largest(part) for part in look(drawn.images, judges).faces]
        boxes = torch.tensor([face.box if face else (0.0, 0.0, 0.0, 0.0) for face in faces])
        hit = float((overlap(boxes, drawn.boxes) >= 0.5).float().mean())
        found.append(
            at_least(f"detector, {name}, IoU 0.5", hit, bar) if bar else stated(f"detector, {name}, IoU 0.5", hit)
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(64, 3, SIZE, SIZE, generator=generator)
    return [*found, at_most("detector, faces in noise", sum(map(bool, look(noise, judges).faces)) / len(noise), 0.01)]


def _copy_paste_gate(judges: Judges, photos: Drawn) -> Gate:
    """Always giving a reference picture back is a perfect likeness and follows no prompt."""
    prompts = [prompt.format("<someone>") for prompt in demo_prompts()]
    values = []
    for start in range(0, len(photos.scenes) - 2, 3):
        seen = look(photos.images[start : start + 1], judges)
        repeated = Seen(
            seen.images.expand(len(prompts), -1, -1, -1),
            seen.faces * len(prompts),
            seen.frames.expand(len(prompts), -1),
            seen.identities * len(prompts),
        )
        if seen.faces[0]:
            scores = measure(repeated, subject=photos.images[start : start + 1], prompt=prompts, judges=judges)
            values.append(scores.id_prompt or 0.0)
    return at_most("copy-paste baseline, ID(Prompt)", sum(values) / len(values), 0.1)
