"""Pictures of the world as numbers on disk: renders for the autoencoder, latents for the base.

A bank is a folder of shards. Each shard holds a run of the endless training set and is written once, whole; a run that
is interrupted goes on with the next shard.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from semblant.embedded.twins import picture_of
from semblant.errors import FileProblem
from semblant.world.renderer import PARTS, Render, render
from semblant.world.scene import Scene

log = logging.getLogger(__name__)

SHARD = 1024
"""Pictures in one shard, twin after twin."""
ORDER, TWINS = "order", "twins of the whole world"
"""What a shard says about its rows, and the only answer whose scenes still follow from its number."""
WEIGHTS = {
    "person": 1.5,
    "hair": 3.0,
    "hat": 3.0,
    "being": 3.0,
    "face": 4.0,
    "held": 6.0,
    "feature": 12.0,
}
"""How much more an error counts than one on the background: on a person at all, on hair and hats, on animals and
things, on the face, on hands and what they hold, and on eyes, brows, nose and mouth with a rim around them. With the
whole face at 4 and nothing above it a mouth was a seventieth of a loss, and after 165,000 presentations the words for
expressions, eyes, noses and lips still changed no prediction (decision 0012)."""
FEATURES = ("l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip")
RIM = 5
"""Width in pixels of the square by which features are widened: where a mouth could be open counts like the mouth."""
HELD_DEPTH = 0.19
"""Hands and what they hold are nearer than this, and nothing else of a person is."""
STEPS_OF_WEIGHT = 8
"""Weights are kept in eighths, in a byte each."""


@dataclass(frozen=True)
class Shard:
    """A run of training pictures: latents [n, 4, h, w], weights [n, 1, h, w] of their cells, and their scenes."""

    latents: Tensor
    weights: Tensor
    scenes: list[Scene]


def scenes_of(shard: int, seed: int = 0) -> list[Scene]:
    """The scenes of one shard: 2k and 2k + 1 are twins."""
    return [picture_of(i, seed) for i in range(shard * SHARD, (shard + 1) * SHARD)]


def rendered(shard: int, size: int = 128, batch: int = 32, device: str = "cpu") -> Iterator[tuple[list[Scene], Render]]:
    """Render one shard, batch by batch."""
    scenes = scenes_of(shard)
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        yield some, render(some, size, device)


def cell_weights(drawn: Render, factor: int = 4) -> Tensor:
    """How much each latent cell counts [n, 1, h, w] (see `WEIGHTS`): most on the features of faces."""
    size = drawn.parts.shape[-1]
    people, others = (seen.any(1).float()[:, None] for seen in (drawn.instances, drawn.others))
    xs = torch.arange(size, device=people.device) + 0.5
    face = torch.zeros_like(people)
    for x0, y0, x1, y1 in (boxes.unbind(-1) for boxes in drawn.boxes.unbind(1)):
        across = (xs >= x0[:, None]) & (xs <= x1[:, None])
        down = (xs >= y0[:, None]) & (xs <= y1[:, None])
        face = torch.maximum(face, (down[:, None, :, None] & across[:, None, None, :]).float())
    covered = {
        "person": people,
        "hair": _of_parts(drawn, ("hair",)),
        "hat": _of_parts(drawn, ("hat",)),
        "being": others,
        "face": face * people,
        "held": (drawn.depth < HELD_DEPTH).float() * (1 - others),
        "feature": F.max_pool2d(_of_parts(drawn, FEATURES), RIM, stride=1, padding=RIM // 2),
    }
    weight = torch.stack([torch.ones_like(people), *(WEIGHTS[name] * mask for name, mask in covered.items())]).amax(0)
    return F.avg_pool2d(weight, factor)


def _of_parts(drawn: Render, names: Sequence[str]) -> Tensor:
    return sum((drawn.parts == PARTS.index(name) for name in names), torch.zeros_like(drawn.parts))[:, None].float()


def packed(weights: Tensor) -> Tensor:
    """Weights as bytes."""
    return (weights * STEPS_OF_WEIGHT).round().to(torch.uint8)


def unpacked(weights: Tensor) -> Tensor:
    """Bytes as the weights that `packed` was given."""
    return weights.float() / STEPS_OF_WEIGHT


def build_shard(path: Path, shard: int, encode: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
    """Render and encode one shard and write it whole. `encode` takes pictures in -1..1."""
    latents, weights = [], []
    for _, drawn in rendered(shard, device=device):
        latents.append(encode(drawn.image * 2 - 1).half().cpu())
        weights.append(packed(cell_weights(drawn)).cpu())
    temporary = path.with_suffix(".tmp")
    tensors = {"latents": torch.cat(latents).contiguous(), "weights": torch.cat(weights).contiguous()}
    save_file(tensors, temporary, metadata={"shard": str(shard), ORDER: TWINS})
    temporary.replace(path)


def load_shard(path: Path) -> Shard:
    """Read a shard; its scenes are drawn again, for they follow from its number."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        if about.get(ORDER) != TWINS:
            raise FileProblem(f"{path} is of another training set, of an earlier version; delete it, it is made again")
        number = int(about["shard"])
        latents, weights = file.get_tensor("latents"), file.get_tensor("weights")
    return Shard(latents, weights, scenes_of(number))


def record(path: Path, **numbers: object) -> None:
    """Append one line of JSON to a log of measurements."""
    with path.open("a") as file:
        file.write(json.dumps(numbers) + "\n")
