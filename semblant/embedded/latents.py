"""Pictures of the world as numbers on disk: renders for the autoencoder, latents for the base.

A bank is a folder of shards. Each shard holds a run of the endless training set and is written once, whole; a run that
is interrupted goes on with the next shard.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from semblant.world.renderer import Render, render
from semblant.world.scene import Scene, draw_training_scene

log = logging.getLogger(__name__)

SHARD = 1024
"""Pictures in one shard."""
FACE_WEIGHT = 4.0
"""How much more an error on the face counts than one on the background; a face fills a tenth of a picture."""
PERSON_WEIGHT = 1.5
"""The same for the rest of the person."""


@dataclass(frozen=True)
class Shard:
    """A run of training pictures: latents [n, 4, h, w], weights [n, 1, h, w] of their cells, and their scenes."""

    latents: Tensor
    weights: Tensor
    scenes: list[Scene]


def scenes_of(shard: int, seed: int = 0) -> list[Scene]:
    """The scenes of one shard."""
    return [draw_training_scene(i, seed) for i in range(shard * SHARD, (shard + 1) * SHARD)]


def rendered(shard: int, size: int = 128, batch: int = 32, device: str = "cpu") -> Iterator[tuple[list[Scene], Render]]:
    """Render one shard, batch by batch."""
    scenes = scenes_of(shard)
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        yield some, render(some, size, device)


def face_weight(drawn: Render, factor: int = 4) -> Tensor:
    """How much each latent cell counts [n, 1, h, w]: most on faces, more on people than on what is behind them."""
    size = drawn.parts.shape[-1]
    people = drawn.instances.any(1).float()[:, None]
    xs = torch.arange(size, device=people.device) + 0.5
    face = torch.zeros_like(people)
    for x0, y0, x1, y1 in (boxes.unbind(-1) for boxes in drawn.boxes.unbind(1)):
        across = (xs >= x0[:, None]) & (xs <= x1[:, None])
        down = (xs >= y0[:, None]) & (xs <= y1[:, None])
        face = torch.maximum(face, (down[:, None, :, None] & across[:, None, None, :]).float())
    weight = 1 + (PERSON_WEIGHT - 1) * people + (FACE_WEIGHT - PERSON_WEIGHT) * face * people
    return F.avg_pool2d(weight, factor)


def build_shard(path: Path, shard: int, encode: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
    """Render and encode one shard and write it whole. `encode` takes pictures in -1..1."""
    latents, weights = [], []
    for _, drawn in rendered(shard, device=device):
        latents.append(encode(drawn.image * 2 - 1).half().cpu())
        weights.append((face_weight(drawn) * 32).round().to(torch.uint8).cpu())
    temporary = path.with_suffix(".tmp")
    tensors = {"latents": torch.cat(latents).contiguous(), "weights": torch.cat(weights).contiguous()}
    save_file(tensors, temporary, metadata={"shard": str(shard)})
    temporary.replace(path)


def load_shard(path: Path) -> Shard:
    """Read a shard; its scenes are drawn again, for they follow from its number."""
    with safe_open(path, framework="pt") as file:
        number = int(file.metadata()["shard"])
        latents, weights = file.get_tensor("latents"), file.get_tensor("weights")
    return Shard(latents, weights, scenes_of(number))


def record(path: Path, **numbers: object) -> None:
    """Append one line of JSON to a log of measurements."""
    with path.open("a") as file:
        file.write(json.dumps(numbers) + "\n")
