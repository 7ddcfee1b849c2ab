"""What each kind of judge learns from one batch of a bank: its loss, and how pictures are varied on the way.

A step takes the judge and a generator and returns the loss; all that is random comes from that generator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semblant.backbones import judges as networks
from semblant.backbones.faces import SIZE, WHOLE, crops, features, frames_of
from semblant.embedded.judge_bank import (
    FACTS,
    MARKED,
    MEASURED,
    NEGATIVES,
    NUMBERS,
    SIDED,
    Bank,
    captioned,
    contradicted,
    degrade,
    parameters,
)
from semblant.world.being_captions import OTHER_SIDE
from semblant.world.captions import RARE_TOKENS, words
from semblant.world.facts import VALUES
from semblant.world.names import FIRST, LAST
from semblant.world.scene import CHOICES, person_of

Step = Callable[[nn.Module, torch.Generator], Tensor]

BATCH = 64
STRANGERS = 512
SCALE, MARGIN = 16.0, 0.1
SHAKE = (0.04, 0.04, 0.05, 0.05, 0.05, 0.05, 0.09)
"""How much the detector errs, number by number of a frame (standard deviations on 400 pictures of `tune`, or more)."""
MARKS, RARE = 10.0, 20.0
"""Weight of the map of marks against the facts, and of its few places with a mark against those without."""
TWINS, ALIKE = 24, 6.0
"""Pictures of a batch seen twice, clean and worsened, so that worsening moves their identity little; how much that
counts."""


def vocabulary() -> list[str]:
    """The words of the CLIP text towers: those of captions, without names and rare tokens."""
    return [word for word in words() if word not in (*FIRST, *LAST, *RARE_TOKENS)] + [","]


def _seen(bank: Bank, rows: Tensor, generator: torch.Generator, device: str) -> Tensor:
    """Pictures of a bank as judges may meet them: some come back from the autoencoder, most are a little worse."""
    pictures = bank.pictures(rows)
    back = (rows < len(bank.round_trips)) & (torch.rand(len(rows), generator=generator) < 0.6)
    if back.any():
        pictures[back] = bank.round_trips[rows[back]].float() / 255
    return degrade(pictures, generator).to(device)


def _frames(bank: Bank, rows: Tensor, generator: torch.Generator, misses: float = 0.03) -> Tensor:
    """True frames, moved, scaled and turned as much as a detector errs; a few miss the face altogether."""
    frames = frames_of(bank.boxes[rows], bank.landmarks[rows], SIZE)
    shake = torch.randn(frames.shape, generator=generator) * torch.tensor(SHAKE)
    for x, half in ((0, 2), (4, 6)):
        frames[:, x : x + 2] += shake[:, x : x + 2] * frames[:, half : half + 1]
        frames[:, half] *= shake[:, half].exp()
    frames[:, 3] += shake[:, 3]
    missed = torch.rand(len(rows), generator=generator) < misses
    frames[missed] = torch.tensor(WHOLE)
    return frames


def mirrored_values(values: Mapping[str, Sequence[str]], facts: Sequence[str]) -> dict[int, Tensor]:
    """By place of a fact that has sides: the place of each of its values in a mirrored picture."""
    return {
        place: torch.tensor([values[fact].index(OTHER_SIDE.get(value, value)) for value in values[fact]])
        for place, fact in enumerate(facts)
        if {"left", "right"} <= set(values[fact])
    }


MIRRORED = mirrored_values(VALUES, FACTS)


def mirror(images: Tensor, frames: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the pictures mirrored, and their frames."""
    frames = torch.where(
        which[:, None],
        frames * frames.new_tensor([-1, 1, 1, -1, -1, 1, 1]) + frames.new_tensor([1, 0, 0, 0, 1, 0, 0]),
        frames,
    )
    return torch.where(which.to(images.device)[:, None, None, None], images.flip(-1), images), frames


def mirrored_labels(true: Tensor, which: Tensor, mirrored: Mapping[int, Tensor] = MIRRORED) -> Tensor:
    """Labels of pictures of which some were mirrored."""
    true = true.clone()
    for place, swapped in mirrored.items():
        shown = which & (true[:, place] >= 0)
        true[shown, place] = swapped[true[shown, place]]
    return true


def marks_missed(
    found: Float[Tensor, "n 2 h w"], bank: Bank, rows: Tensor, frames: Tensor, which: Tensor, wide: float | None
) -> Tensor:
    """How far a map of marks is from where they are, where the pictures (`which` of them mirrored, as their frames are)
    show whether there are any."""
    if bank.marks is None or wide is None:
        raise ValueError("a judge that looks for marks learns from a bank that knows where they are")
    there = bank.marks[rows].float() / 255
    there = torch.where(which[:, None, None, None], there.flip(-1), there)
    there = F.interpolate(there, scale_factor=2.0)
    there = F.avg_pool2d(crops(there, features(frames, wide)), 64 // found.shape[-1]).mul(2).clamp(0, 1).to(found)
    shown = torch.stack([bank.labels[rows, FACTS.index(fact)] >= 0 for fact, _ in MARKED], 1)[..., None, None]
    missed = F.binary_cross_entropy_with_logits(found, there, reduction="none", pos_weight=found.new_tensor(RARE))
    return MARKS * (missed * shown.to(missed)).mean()


def numbers_missed(found: Float[Tensor, "n measures"], bank: Bank, rows: Tensor, which: Tensor) -> Float[Tensor, ""]:
    """How far numbers are from those behind the words, where they show; `which` of the pictures were mirrored."""
    true = bank.measures[rows]
    turned = true * torch.tensor([-1.0 if field in SIDED else 1.0 for field in MEASURED])
    true = torch.where(which[:, None], turned, true).to(found)
    shown = ~true.isnan()
    return F.smooth_l1_loss(found[shown], true[shown], beta=0.5)


def _coins(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < 0.5


def _rows(bank: Bank, generator: torch.Generator) -> Tensor:
    return torch.randint(0, len(bank), (BATCH,), generator=generator)


def identity_step(bank: Bank, seed: int, device: str) -> Step:
    """Estimates lie near the numbers of the people, and find them among made-up strangers; worsened twins stay near.
    Half of the pictures are mirrored, which makes somebody else of whoever has a mole."""
    project = isometry(seed, bank.people.shape[1]).to(device)
    rng = random.Random(seed)
    crowd = torch.tensor([parameters(person_of("train", rng.randrange(10**9))) for _ in range(4096)])
    shared = [NUMBERS.index("skin"), NUMBERS.index("undertone")]
    side = NUMBERS.index("mole_x")
    hair = list(range(len(NUMBERS), len(NUMBERS) + sum(len(CHOICES[c]) for c in ("hair_style", "hair_colour"))))

    def step(judge: nn.Module, generator: torch.Generator) -> Tensor:
        rows = _rows(bank, generator)
        if back := len(bank.round_trips):
            rows[:TWINS] = torch.randint(0, back, (TWINS,), generator=generator)
        rows = torch.cat([rows, rows[:TWINS]])
        images = _seen(bank, rows, generator, device)
        images[:TWINS] = bank.pictures(rows[:TWINS]).to(device)
        frames = _frames(bank, rows, generator, misses=0.0)
        which = _coins(BATCH, generator)
        both = torch.cat([which, which[:TWINS]])
        images, frames = mirror(images, frames, both)
        assert isinstance(judge, networks.Identity)
        estimate, marks = judge.study(images, frames.to(device))
        estimate = estimate.float()
        found = judge.vectors(estimate)
        people = bank.people[rows[:BATCH]].clone()
        # In a mirrored picture a mole is on the other cheek.
        people[which, side] *= -1
        alike = crowd[torch.randint(0, len(crowd), (4, BATCH), generator=generator)]
        alike[:, :, shared + hair] = people[:, shared + hair]
        strangers = crowd[torch.randint(0, len(crowd), (STRANGERS,), generator=generator)]
        targets = judge.vectors(torch.cat([people, alike.flatten(0, 1), strangers]).to(device) @ project)
        own = torch.arange(BATCH, device=device)
        own = torch.cat([own, own[:TWINS]])
        true = found @ targets.T
        same = (targets[own] @ targets.T) > 0.9999
        hit = F.one_hot(own, len(targets)).bool()
        logits = SCALE * (true - MARGIN * hit.float()).masked_fill(same & ~hit, -1e4)
        twins = 1 - (found[:TWINS] * found[-TWINS:]).sum(-1)
        numbers = people.to(device)[own]
        missed = F.smooth_l1_loss(estimate @ project.T, numbers, beta=0.5)
        loss = 6 * missed + 0.3 * F.cross_entropy(logits, own) + ALIKE * twins.mean()
        if marks is not None:
            loss = loss + marks_missed(marks, bank, rows, frames, both, judge.features)
        return loss

    return step


def isometry(seed: int, inputs: int, dim: int = 128) -> Tensor:
    """An isometry from the numbers of a person, animal or thing to identity vectors, its own for every seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, inputs, generator=generator)).Q.T.contiguous()


def attributes_step(bank: Bank, seed: int, device: str) -> Step:
    """Cross entropy of every fact that the picture shows, facts weighted alike, and the numbers behind the words on a
    scale: they teach also where no word is fair. Half of the pictures are mirrored."""

    def step(judge: nn.Module, generator: torch.Generator) -> Tensor:
        rows = _rows(bank, generator)
        images, frames = _seen(bank, rows, generator, device), _frames(bank, rows, generator)
        which = _coins(BATCH, generator)
        images, frames = mirror(images, frames, which)
        assert isinstance(judge, networks.Attributes)
        logits, numbers, marks = judge.study(images, frames.to(device))
        true = mirrored_labels(bank.labels[rows], which).to(device)
        seen = (true >= 0).sum(0).clamp_min(BATCH // 4)
        losses = [
            F.cross_entropy(logits[fact].float(), true[:, place], ignore_index=-1, reduction="sum") / seen[place]
            for place, fact in enumerate(FACTS)
        ]
        loss = torch.stack(losses).mean()
        if numbers is not None:
            loss = loss + numbers_missed(numbers.float(), bank, rows, which)
        return loss if marks is None else loss + marks_missed(marks, bank, rows, frames, which, judge.look.features)

    return step


def clip_step(bank: Bank, seed: int, device: str) -> Step:
    """Pictures find their captions and captions their pictures; only what the picture contradicts counts as wrong."""
    rng = random.Random(seed)
    tower = networks.TextTower(vocabulary(), 4, 0, 4)
    texts = [captioned(scene, rng) for scene in bank.scenes for _ in range(2)]
    tokens = tower.tokens([text for group, _ in texts for text in group]).unflatten(0, (len(bank), 2, 1 + NEGATIVES))
    named = torch.tensor([facts for _, facts in texts]).unflatten(0, (len(bank), 2))

    def step(judge: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(judge, networks.Clip)
        rows = _rows(bank, generator)
        which = torch.randint(0, 2, (BATCH,), generator=generator)
        changed = torch.randint(1, 1 + NEGATIVES, (BATCH,), generator=generator)
        said, facts = (torch.cat([table[rows, which, 0], table[rows, which, changed]]) for table in (tokens, named))
        said = said[:, : int((said > 0).sum(1).max())]
        pictures = judge.images(_seen(bank, rows, generator, device), _frames(bank, rows, generator).to(device)).float()
        spoken = F.normalize(judge.words(said.to(device)).float(), dim=-1)
        wrong = contradicted(facts, bank.labels[rows]).T.to(device)  # [pictures, texts]
        own = torch.arange(BATCH, device=device)
        logits = (pictures @ spoken.T) * judge.scale.clamp(max=4.0).exp()
        keep = wrong.clone()
        keep[own, own] = True
        logits = logits.masked_fill(~keep, -1e4)
        mine = torch.stack([logits[own, own], logits[own, own + BATCH]], 1)
        both = F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :BATCH].T, own)
        return both / 2 + F.cross_entropy(mine, torch.zeros_like(own))

    return step


def detector_step(bank: Bank, seed: int, device: str) -> Step:
    """Focal loss on the heat map, distances to box sides and landmarks near each centre (CenterNet). A third of the
    pictures show two people, or an animal or thing, where the bank has such."""
    cells = networks.Detector.SIDE // networks.Detector.CELL
    grid = torch.stack(torch.meshgrid(torch.arange(cells) + 0.5, torch.arange(cells) + 0.5, indexing="xy"), -1)

    def step(judge: nn.Module, generator: torch.Generator) -> Tensor:
        rows = _rows(bank, generator)
        images, boxes, points, there = _crowd(_seen(bank, rows, generator, "cpu"), bank, rows, generator)
        if bank.crowds is not None:
            some = torch.randint(0, len(bank.crowds.images), (BATCH // 3,), generator=generator)
            images[: len(some)] = degrade(bank.crowds.images[some].float() / 255, generator)
            boxes[: len(some)], points[: len(some)] = bank.crowds.boxes[some], bank.crowds.landmarks[some]
            there[: len(some)] = bank.crowds.boxes[some].any(-1).float()
        boxes, points = boxes * cells / SIZE, points * cells / SIZE  # [n, 2, 4], [n, 2, 5, 2] in cells
        heat = (heat_of(boxes, grid) * there[:, :, None, None]).to(device)
        target, nearest = heat.max(1)
        raw = judge(images.to(device)).float()
        logit = raw[:, 0]
        peak = target > 0.8
        missed = -F.logsigmoid(logit) * logit.sigmoid().neg().add(1).square() * peak
        ghost = -F.logsigmoid(-logit) * logit.sigmoid().square() * (1 - target).pow(4) * ~peak
        focal = (missed.sum() + ghost.sum()) / peak.sum().clamp_min(1)
        picture, y, x = (target > 0.5).nonzero(as_tuple=True)
        who = nearest[picture, y, x].cpu()
        at = grid[y.cpu(), x.cpu()]
        box, marks = boxes[picture.cpu(), who], points[picture.cpu(), who]
        wanted = torch.cat([at - box[:, :2], box[:, 2:] - at, (marks - at[:, None]).flatten(1)], 1).to(device)
        off = F.smooth_l1_loss(raw[picture, 1:, y, x], wanted, reduction="none", beta=0.2)
        return focal + off.mean()

    return step


def heat_of(boxes: Float[Tensor, "n people 4"], grid: Float[Tensor, "h w 2"]) -> Float[Tensor, "n people h w"]:
    """How near every cell is to the middle of each box, 0..1: a bell as wide as the box. The cell that holds the middle
    is wholly one, or a face of two cells, whose middle may be far from every cell's own, would be nowhere."""
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    away = grid - (centre.floor() + 0.5)[:, :, None, None]
    return torch.exp(-(away / (0.15 * size[:, :, None, None]).clamp_min(0.45)).square().sum(-1) / 2)


def _crowd(
    images: Tensor, bank: Bank, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures with none, one or two faces: side by side, smaller, with the head painted over, mere noise."""
    n = len(images)
    boxes = torch.stack([bank.boxes[rows], torch.zeros(n, 4)], 1)
    points = torch.stack([bank.landmarks[rows], torch.zeros(n, 5, 2)], 1)
    there = torch.stack([torch.ones(n), torch.zeros(n)], 1)
    images, other = images.clone(), images.roll(1, 0)
    kind = torch.rand(n, generator=generator)
    half, quarter = SIZE // 2, SIZE // 4
    for i in range(n):
        if kind[i] < 0.2:  # the middles of two pictures side by side
            j = (i - 1) % n
            images[i] = torch.cat([images[i][..., quarter:-quarter], other[i][..., quarter:-quarter]], -1)
            for person, (source, shift) in enumerate(((i, -quarter), (j, quarter))):
                boxes[i, person] = bank.boxes[rows[source]] + torch.tensor([shift, 0, shift, 0])
                points[i, person] = bank.landmarks[rows[source]] + torch.tensor([shift, 0])
                low, high = person * half, (person + 1) * half
                boxes[i, person, 0::2] = boxes[i, person, 0::2].clamp(low, high)
                middle = float(boxes[i, person, 0::2].mean())
                wide = float(boxes[i, person, 2] - boxes[i, person, 0])
                there[i, person] = float(low + 6 < middle < high - 6 and wide > 16)
        elif kind[i] < 0.3:  # smaller, in a corner of another picture's edge
            scale = 0.5 + 0.4 * float(torch.rand(1, generator=generator))
            small = F.interpolate(images[i][None], scale_factor=scale, mode="bilinear", antialias=True)[0]
            height, width = small.shape[-2:]
            x, y = (int(torch.randint(0, SIZE - side + 1, (1,), generator=generator)) for side in (width, height))
            images[i] = images[i][:, :1, :1].expand_as(images[i])
            images[i, :, y : y + height, x : x + width] = small
            corner = torch.tensor([x, y], dtype=torch.float32)
            boxes[i, 0] = boxes[i, 0] * scale + corner.repeat(2)
            points[i, 0] = points[i, 0] * scale + corner
        elif kind[i] < 0.45:  # no face: painted over with another part, scrambled or noise
            there[i, 0] = 0
            images[i] = _faceless(images[i], boxes[i, 0], generator)
    return images, boxes, points, there


def _faceless(image: Tensor, box: Tensor, generator: torch.Generator) -> Tensor:
    way = float(torch.rand(1, generator=generator))
    if way < 0.5:
        left, top, right, bottom = box.round().clamp(0, SIZE).int().tolist()
        colour = image[
            :, torch.randint(0, SIZE, (1,), generator=generator), torch.randint(0, 8, (1,), generator=generator)
        ]
        image = image.clone()
        image[:, max(top - 12, 0) : bottom + 6, max(left - 8, 0) : right + 8] = colour[:, :, None].squeeze(-1)[
            ..., None
        ]
        return image
    if way < 0.7:
        tile = 8
        tiles = image.unfold(1, tile, tile).unfold(2, tile, tile).reshape(3, -1, tile, tile)
        tiles = tiles[:, torch.randperm(tiles.shape[1], generator=generator)]
        side = SIZE // tile
        return tiles.reshape(3, side, side, tile, tile).transpose(2, 3).reshape(3, SIZE, SIZE)
    cells = int(2 ** torch.randint(0, 8, (1,), generator=generator)) if way < 0.85 else SIZE
    noise = torch.rand(1, 3, cells, cells, generator=generator)
    return F.interpolate(noise, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0]


STEPS: dict[str, Callable[[Bank, int, str], Step]] = {
    "identity": identity_step,
    "attributes": attributes_step,
    "clip": clip_step,
    "detector": detector_step,
}
