"""Judges: small networks that look at pictures and say who is there, what is shown and whether it is what was asked.

They come in two copies that share nothing but the world they were trained on: A may condition or guide a method, B only
measures. Every judge takes pictures as `faces.as_pictures` makes them (float32, 0..1, 128 px) and is differentiable;
weights lie in half precision beside this package as one safetensors file each, with normalisation folded into the
convolutions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from semblant.backbones.being_judge import Beings
from semblant.backbones.faces import Face, Frame, crops, face_crops, frame_of, overlap
from semblant.backbones.trunks import Conv, Marks, Places, Trunk, fold, together
from semblant.errors import FileProblem

Copy = Literal["A", "B"]
FORMAT = "semblant-judge/1"
DROPOUT = 0.2
"""Share of what an attribute reader sees that is left out while it learns."""
NAMES = ("detector", "identity-a", "identity-b", "attributes-a", "attributes-b", "clip-a", "clip-b", "beings")


class Detector(nn.Module):
    """Heads as peaks of a heat map over the picture at 64 px, with box and landmarks (CenterNet, arXiv 1904.07850)."""

    SIDE = 64
    CELL = 4

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96), threshold: float = 0.5) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "threshold": threshold}
        self.threshold = threshold
        self.trunk = Trunk(widths, (0, 1, 1, 1))
        self.lateral = nn.ModuleList(Conv(width, 48, kernel=1, act=False) for width in widths[1:])
        self.smooth = Conv(48, 64)
        self.out = nn.Conv2d(64, 15, 1)
        bias = torch.zeros(15)
        bias[0] = -3.0  # a face is rare among cells
        self.out.bias = nn.Parameter(bias)

    def forward(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 15 16 16"]:
        """Per cell: logit of a face centre, box (left, top, right, bottom from the cell) and landmarks, in cells."""
        images = F.interpolate(
            images, size=(self.SIDE, self.SIDE), mode="bilinear", align_corners=False, antialias=True
        )
        return self.out(self.smooth(together(self.lateral, self.trunk(images)[1:])))

    @torch.no_grad()
    def detect(self, images: Float[Tensor, "n 3 s s"], most: int = 4) -> list[list[Face]]:
        """Faces of each picture, the surest first, at most `most`, in pixels of the given size."""
        side = images.shape[-1]
        raw = self(images).float()
        heat = raw[:, :1].sigmoid()
        peaks = (heat * (heat == F.max_pool2d(heat, 3, 1, 1))).flatten(1)
        cells = raw.shape[-1]
        found: list[list[Face]] = []
        for scores, values in zip(peaks, raw.flatten(2), strict=True):
            best = scores.topk(most)
            faces: list[Face] = []
            for score, cell in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                if score < self.threshold:
                    break
                at = torch.tensor([cell % cells + 0.5, cell // cells + 0.5], device=raw.device)
                numbers = values[1:, cell]
                corners = torch.cat([at - numbers[:2], at + numbers[2:4]]) * side / cells
                points = (at + numbers[4:].view(5, 2)) * side / cells
                if all(float(overlap(corners[None].cpu(), torch.tensor([f.box]))) < 0.4 for f in faces):
                    box = tuple(corners.tolist())
                    faces.append(Face(box, score, tuple((x, y) for x, y in points.tolist())))  # type: ignore[arg-type]
            found.append(faces)
        return found


class Identity(nn.Module):
    """Who a face is: a unit vector of its upright crop, whose cosines fall with the distance between two people.

    With `features` the crop shows eyes, nose and mouth, and a `head` looks at hair and ears beside it. Neither sees the
    picture as a whole: another person may be in it. With a `radius` the estimate is lifted onto a sphere of that radius
    by one more number before it is made a unit vector: cosines then follow distances, which are lost when estimates of
    unequal length are only scaled.
    """

    def __init__(
        self,
        face: Sequence[int],
        near: float,
        narrow: int,
        dim: int = 128,
        features: float | None = None,
        head: Sequence[int] = (),
        radius: float | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"face": list(face), "near": near, "narrow": narrow, "dim": dim}
        self.config |= {"features": features} if features else {}
        self.config |= {"head": list(head)} if head else {}
        self.config |= {"radius": radius} if radius else {}
        self.near, self.features, self.radius = near, features, radius
        self.size = dim + (radius is not None)
        """Numbers of a vector."""
        self.face = face_trunk(face)
        self.marks = Marks(face[0]) if features else None
        self.out = Places(face[-1], dim, narrow, Marks.NUMBERS if features else 0)
        self.head = face_trunk(head) if head else None
        self.from_head = Places(head[-1], dim, narrow) if head else None

    def forward(self, images: Float[Tensor, "n 3 s s"], frames: Frame) -> Float[Tensor, "n size"]:
        return self.vectors(self.study(images, frames)[0])

    def vectors(self, estimates: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n size"]:
        """Unit vectors of estimates."""
        if self.radius is not None:
            left = self.radius**2 - estimates.square().sum(-1, keepdim=True)
            estimates = torch.cat([estimates, left.clamp_min(1e-4).sqrt()], -1)
        return F.normalize(estimates, dim=-1)

    def study(self, images: Float[Tensor, "n 3 s s"], frames: Frame) -> tuple[Float[Tensor, "n dim"], Tensor | None]:
        """The numbers of the person, in a space of the judge's own, and the map of marks it has looked at."""
        seen = self.face(face_crops(images, frames, self.near, self.features))
        marks = None if self.marks is None else self.marks(seen[0])
        told = () if self.marks is None or marks is None else (self.marks.told(marks),)
        estimate = self.out(seen[-1], *told)
        if self.head is not None and self.from_head is not None:
            estimate = estimate + self.from_head(self.head(crops(images, frames))[-1])
        return estimate, marks


def face_trunk(widths: Sequence[int]) -> Trunk:
    """What looks at a face: a mole is two pixels wide, so much is done before it grows coarse."""
    return Trunk(widths, [*[1] * (len(widths) - 1), 0])


class Look(nn.Module):
    """The picture as a whole and its face from near by, as one vector."""

    def __init__(
        self,
        picture: Sequence[int],
        face: Sequence[int],
        near: float,
        stem: int,
        narrow: int,
        dim: int,
        features: float | None = None,
    ) -> None:
        super().__init__()
        self.near, self.features = near, features
        self.picture = Trunk(picture, [*[1] * (len(picture) - 1), 0], stem=stem)
        self.face = face_trunk(face)
        self.marks = Marks(face[0]) if features else None
        self.from_picture, self.from_face = Places(picture[-1], dim), Places(face[-1], dim, narrow)
        self.numbers = 2 * dim + (Marks.NUMBERS if features else 0)

    def forward(self, images: Float[Tensor, "n 3 s s"], frames: Frame) -> Float[Tensor, "n numbers"]:
        return self.study(images, frames)[0]

    def study(
        self, images: Float[Tensor, "n 3 s s"], frames: Frame
    ) -> tuple[Float[Tensor, "n numbers"], Tensor | None]:
        """The vector, and the map of marks on the face where it looks for them."""
        face = self.face(face_crops(images, frames, self.near, self.features))
        both = F.relu(torch.cat([self.from_picture(self.picture(images)[-1]), self.from_face(face[-1])], 1))
        if self.marks is None:
            return both, None
        marks = self.marks(face[0])
        return torch.cat([both, self.marks.told(marks)], 1), marks


class Attributes(nn.Module):
    """Reads every fact of the world off a picture: one softmax over the values of each. `numbers` are those behind the
    words that are on a scale; a reader that gives them too learns the words better."""

    def __init__(self, values: dict[str, Sequence[str]], look: dict[str, Any], numbers: Sequence[str] = ()) -> None:
        super().__init__()
        self.values = {fact: tuple(options) for fact, options in values.items()}
        self.config: dict[str, Any] = {"values": {f: list(v) for f, v in self.values.items()}, "look": look}
        self.config |= {"numbers": list(numbers)} if numbers else {}
        self.look = Look(**look)
        self.out = nn.Linear(self.look.numbers, sum(map(len, self.values.values())))
        self.numbers = nn.Linear(self.look.numbers, len(numbers)) if numbers else None

    def forward(self, images: Float[Tensor, "n 3 s s"], frames: Frame) -> dict[str, Float[Tensor, "n values"]]:
        """Logits per fact."""
        return self.study(images, frames)[0]

    def study(
        self, images: Float[Tensor, "n 3 s s"], frames: Frame
    ) -> tuple[dict[str, Float[Tensor, "n values"]], Float[Tensor, "n numbers"] | None, Tensor | None]:
        """Logits per fact, the numbers, and the map of marks it has looked at; None for what it does not give."""
        seen, marks = self.look.study(images, frames)
        seen = F.dropout(seen, DROPOUT, self.training)
        logits = self.out(seen).split([len(v) for v in self.values.values()], dim=1)
        numbers = None if self.numbers is None else self.numbers(seen)
        return dict(zip(self.values, logits, strict=True)), numbers, marks

    @torch.no_grad()
    def read(self, images: Float[Tensor, "n 3 s s"], frames: Frame) -> list[dict[str, str]]:
        """The likeliest value of every fact, per picture."""
        best = {fact: logits.argmax(1).tolist() for fact, logits in self(images, frames).items()}
        return [{fact: self.values[fact][index[row]] for fact, index in best.items()} for row in range(len(images))]

    def features(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n features"]:
        """The picture as its stages see it, each place a unit vector; squared distances of rows are those of LPIPS.

        Learned perceptual distance without learned weights (arXiv 1801.03924, equation 1), averaged over places and
        stages.
        """
        seen = self.look.picture(images)
        return torch.cat(
            [
                F.normalize(x, dim=1).flatten(1) / (x.shape[-1] * x.shape[-2] * len(seen)) ** 0.5
                for x in (F.avg_pool2d(x, 2) if x.shape[-1] > 8 else x for x in seen)
            ],
            dim=1,
        )


class TextTower(nn.Module):
    """Words to a vector: a small transformer over a list of known words; words it does not know are left out."""

    LENGTH = 48

    def __init__(self, words: Sequence[str], width: int, layers: int, dim: int) -> None:
        super().__init__()
        self.index = {word: place for place, word in enumerate(words, start=1)}  # 0 pads
        self.embedding = nn.Embedding(len(words) + 1, width)
        self.position = nn.Parameter(torch.randn(self.LENGTH, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.out = nn.Linear(width, dim)

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "n length"]:
        """Numbers of the known words, padded with 0; a text without a known word becomes one padding token."""
        rows = [[self.index[w] for w in _words(text) if w in self.index][: self.LENGTH] for text in texts]
        longest = max(1, *map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def forward(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n dim"]:
        padding = tokens == 0
        padding[:, 0] = False
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        weight = (~padding).to(x)[..., None]
        return self.out((x * weight).sum(1) / weight.sum(1))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*|,", text.lower())


class Clip(nn.Module):
    """A picture and a text tower into one space (arXiv 2103.00020); cosines say how well the two fit."""

    def __init__(self, words: Sequence[str], look: dict[str, Any], width: int, layers: int, out: int = 128) -> None:
        super().__init__()
        sizes = {"width": width, "layers": layers, "out": out}
        self.config: dict[str, Any] = {"words": list(words), "look": look, **sizes}
        self.look = Look(**look)
        self.out = nn.Linear(self.look.numbers, out)
        self.words = TextTower(words, width, layers, out)
        self.scale = nn.Parameter(torch.tensor(2.7))

    def images(self, images: Float[Tensor, "n 3 s s"], frames: Frame) -> Float[Tensor, "n out"]:
        return F.normalize(self.out(self.look(images, frames)), dim=-1)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "n out"]:
        return F.normalize(self.words(self.words.tokens(texts).to(self.scale.device)), dim=-1)


KINDS: dict[str, type[nn.Module]] = {
    "detector": Detector,
    "identity": Identity,
    "attributes": Attributes,
    "clip": Clip,
    "beings": Beings,
}


def save(judge: nn.Module, path: Path) -> None:
    """Write a judge folded and in half precision; any folder above is made."""
    kind = next(name for name, of in KINDS.items() if type(judge) is of)
    tensors = {name: value.half().contiguous() for name, value in fold(judge).state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"format": FORMAT, "kind": kind, "config": json.dumps(judge.config)})
    partial.replace(path)


def load(path: Path, device: str | torch.device = "cpu") -> nn.Module:
    """Read what `save` wrote, ready to look, in float32. Raises FileProblem when the file is missing or no judge."""
    if not path.is_file():
        raise FileProblem(f"there is no judge at {path.name}; `make embedded` trains the judges")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if about.get("format") != FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}, not {FORMAT!r}")
        judge = fold(KINDS[about["kind"]](**json.loads(about["config"])))
        judge.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError, OSError) as problem:
        raise FileProblem(f"{path.name} cannot be read as a judge: {str(problem).splitlines()[0]}") from problem
    return judge.to(device)


def weights_folder() -> Path:
    """Where the shipped judges lie."""
    return Path(str(resources.files("semblant"))) / "embedded" / "weights" / "judges"


@dataclass(frozen=True)
class Judges:
    """One copy of every judge, with what was measured about them."""

    detector: Detector
    identity: Identity
    attributes: Attributes
    clip: Clip
    card: dict[str, Any]
    """Constants that metrics need and the values of the gates: numbers by name."""
    strangers: Float[Tensor, "n dim"]
    """Identity vectors of people who are nobody's subject."""
    beings: Beings
    """What tells animals and things; it only measures, and there is one."""
    being_strangers: Float[Tensor, "kinds n dim"]
    """Identity vectors of animals and things that are nobody's subject, by kind in the order of the judge."""

    def identities(self, images: Float[Tensor, "n 3 s s"]) -> tuple[list[list[Face]], list[Float[Tensor, "faces dim"]]]:
        """The faces of each picture, the surest first, and their identity vectors."""
        found = self.detector.detect(images)
        frames = [frame_of(face, images.shape[-1]) for faces in found for face in faces]
        if not frames:
            return found, [images.new_zeros(0, self.strangers.shape[1]) for _ in found]
        rows = torch.cat([images[i : i + 1] for i, faces in enumerate(found) for _ in faces])
        vectors = self.identity(rows, torch.cat(frames).to(images))
        return found, list(vectors.split([len(faces) for faces in found]))

    def to(self, device: str | torch.device) -> Judges:
        moved = {
            name: getattr(self, name).to(device)
            for name in ("detector", "identity", "attributes", "clip", "strangers", "beings", "being_strangers")
        }
        return replace(self, **moved)


def bare_judges(which: Copy, folder: Path) -> Judges:
    """The networks of one copy (detector and judge of beings serve both), not yet calibrated: an empty card, no
    strangers."""
    parts: dict[str, Any] = {name: load(folder / f"{name}.safetensors") for name in ("detector", "beings")}
    for kind in ("identity", "attributes", "clip"):
        parts[kind] = load(folder / f"{kind}-{which.lower()}.safetensors")
    nobody: dict[str, Any] = {
        "strangers": torch.zeros(0, parts["identity"].size),
        "being_strangers": torch.zeros(0, 0, parts["beings"].config["dim"]),
    }
    return Judges(card={}, **nobody, **parts)


@cache
def load_judges(which: Copy = "B", folder: Path | None = None) -> Judges:
    """The shipped judges of one copy, or those in `folder`, on the CPU. Raises FileProblem when there are none."""
    folder = folder or weights_folder()
    judges = bare_judges(which, folder)
    card_file, strangers_file = folder / "card.json", folder / "strangers.safetensors"
    if not card_file.is_file() or not strangers_file.is_file():
        raise FileProblem(
            "the judges were never calibrated; `semblant world judges` measures them and writes their card"
        )
    with safe_open(strangers_file, framework="pt") as file:
        strangers = file.get_tensor(f"identity-{which.lower()}").float()
        beings = file.get_tensor("beings").float()
    return replace(judges, card=json.loads(card_file.read_text()), strangers=strangers, being_strangers=beings)
