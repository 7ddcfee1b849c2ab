"""Training the embedded autoencoder on crops of rendered pictures."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semblant.backbones.blueprint import Blueprint, new_autoencoder
from semblant.embedded.latents import record, rendered
from semblant.world.renderer import Render, render
from semblant.world.scene import Scene, draw_scene, person_of

log = logging.getLogger(__name__)

CROP = 64
"""Side of the crops it learns from: a quarter of the picture's work, and as many details."""
LEARNING_RATE = 4e-4
"""Higher rates stay for long in a grey world: at 2e-3 colours had not come after 190 steps, at 3e-4 they had."""
KL_WEIGHT = 1e-6
"""Weight of the divergence from a standard normal (Rombach et al. 2022, first-stage configuration)."""
SQUARED_WEIGHT = 2.0
"""Weight of the squared error beside the absolute one: it brings colours early, the other sharpness."""
ANCHOR_WEIGHT = 0.5
"""Weight of the distance between the first three latent channels and the colours of 4 x 4 blocks. Left alone, four
channels carry texture and one axis of colour: after 2,000 steps green was still grey. Clothes' colours are facts, the
weave of a hat is not; and colours that lie open in the latents are what a diffusion model learns first."""
SAVE_MINUTES = 2.0
FACE_CROPS = 0.6
"""Share of crops taken around a face."""


@dataclass(frozen=True)
class Drawn:
    """Pictures in -1..1, the boxes of the faces in them (on the CPU), and what they are of."""

    images: Float[Tensor, "n 3 s s"]
    boxes: Float[Tensor, "n people 4"]
    scenes: Sequence[Scene]


def corners(drawn: Drawn, generator: torch.Generator) -> list[tuple[int, int]]:
    """Left and top of one crop of each picture, most of them around the first face, if there is one."""
    room = drawn.images.shape[-1] - CROP
    places = []
    for box in drawn.boxes[:, 0]:
        corner = (torch.rand(2, generator=generator) * room).long()
        if torch.rand((), generator=generator) < FACE_CROPS and bool(box.any()):
            centre = (box[:2] + box[2:]) / 2 + (torch.rand(2, generator=generator) - 0.5) * 32
            corner = (centre - CROP / 2).round().long().clamp(0, room)
        places.append((int(corner[0]), int(corner[1])))
    return places


def crops(drawn: Drawn, generator: torch.Generator, cell: int = 1) -> tuple[Tensor, list[tuple[int, int]]]:
    """Two crops [2 n, 3, CROP, CROP] of each picture, and where they are: drawing it costs more than learning from one
    of them. Their corners are multiples of `cell` pixels."""
    places = [corner for _ in range(2) for corner in corners(drawn, generator)]
    places = [((x + cell // 2) // cell * cell, (y + cell // 2) // cell * cell) for x, y in places]
    pairs = zip([*drawn.images, *drawn.images], places, strict=True)
    out = torch.stack([image[:, y : y + CROP, x : x + CROP] for image, (x, y) in pairs])
    return out.contiguous(memory_format=torch.channels_last), places


def reconstruction_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Absolute error of pixels plus the weighted squared one."""
    difference = made - wanted
    return difference.abs().mean() + SQUARED_WEIGHT * difference.square().mean()


def block_colours(images: Tensor) -> Tensor:
    """Luma, blue and red difference (ITU-R BT.601) of 4 x 4 blocks, as large as latents: [n, 3, h / 4, w / 4]."""
    red, green, blue = F.avg_pool2d(images, 4).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([2 * luma, 2.3 * (blue - luma), 2.8 * (red - luma)], 1)


def train_autoencoder(
    work: Path,
    plan: Blueprint,
    *,
    minutes: float,
    seed: int = 0,
    batch: int = 2,
    compute: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    stay: int = 0,
) -> nn.Module:
    """Train, or go on training, for some minutes; the state lies in `work` and the result, on the CPU, is returned.

    The learning rate falls to zero over the minutes given, so a later call warms it up again from where it stands.
    Every picture is drawn for one step; or `stay` of them are drawn once and stay on the device, for one fast enough to
    wait for the drawing otherwise.
    """
    work.mkdir(parents=True, exist_ok=True)
    state = work / "autoencoder.safetensors"
    torch.manual_seed(seed)
    device = torch.device(device)
    network: Any = new_autoencoder(plan).to(device, memory_format=torch.channels_last)
    done = 0
    if state.is_file():
        weights = load_file(state)
        done = int(weights.pop("pictures"))
        network.load_state_dict(weights)
    generator = torch.Generator().manual_seed(seed + done)
    chance = torch.Generator(device).manual_seed(seed + done)
    source = kept(stay, batch, plan.size, device, generator) if stay else streamed(done, batch, plan.size, device)
    network.train()

    def loss_of(drawn: Drawn) -> Tensor:
        images, _ = crops(drawn, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
            posterior = network.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=chance, device=device)
            made = network.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence = posterior.kl().mean().float()
        anchor = (posterior.mean[:, :3].float() - block_colours(images)).square().mean()
        return reconstruction_error(made, images) + KL_WEIGHT * divergence + ANCHOR_WEIGHT * anchor

    learned, log_file = list(network.parameters()), work / "autoencoder.jsonl"
    save = lambda done: _save(network, done, state)
    done = learn(learned, LEARNING_RATE, loss_of, source, minutes, log_file, done, save)
    network = network.cpu()
    network.eval()
    network.register_to_config(scaling_factor=latent_scale(network))
    _save(network, done, state)
    return network


def learn(
    learned: list[nn.Parameter],
    rate: float,
    loss_of: Callable[[Drawn], Tensor],
    source: Iterator[Drawn],
    minutes: float,
    log_file: Path,
    done: int = 0,
    save: Callable[[int], None] = lambda done: None,
) -> int:
    """Lower `loss_of` pictures for some minutes, at a rate that falls to zero; how many were seen in all."""
    optimiser = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
    began = saved = time.monotonic()
    for step, drawn in enumerate(source):
        if (spent := (time.monotonic() - began) / 60) >= minutes:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (done + 10) / 200) * max(0.02, 1 - spent / minutes)
        loss = loss_of(drawn)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        done += len(drawn.scenes)
        if time.monotonic() - saved > SAVE_MINUTES * 60:
            save(done)
            saved = time.monotonic()
        if step % 160 == 159:
            record(log_file, pictures=done, loss=round(float(loss.detach()), 5), minutes=round(spent, 2))
    return done


def streamed(done: int, batch: int, size: int, device: torch.device) -> Iterator[Drawn]:
    """Pictures drawn anew without end."""
    for shard in count(10_000 + done // 1024):
        for scenes, drawn in rendered(shard, size, batch, str(device)):
            yield Drawn(drawn.image * 2 - 1, first_boxes(drawn), scenes)


def kept(pictures: int, batch: int, size: int, device: torch.device, generator: torch.Generator) -> Iterator[Drawn]:
    """The same of `pictures` that stay on the device, as bytes."""
    images, boxes, told = [], [], []
    for shard in range(10_000, 10_000 + -(-pictures // 1024)):
        for scenes, drawn in rendered(shard, size, 1024, str(device)):
            images.append((drawn.image * 255).round().to(torch.uint8))
            boxes.append(first_boxes(drawn))
            told += scenes
    image, box = torch.cat(images), torch.cat(boxes)
    while True:
        rows = torch.randint(len(image), (batch,), generator=generator)
        yield Drawn(image[rows.to(device)].float() / 127.5 - 1, box[rows], [told[row] for row in rows.tolist()])


def first_boxes(drawn: Render) -> Float[Tensor, "n 1 4"]:
    """The box of the first face of each picture, on the CPU; zeros where there is nobody."""
    boxes = F.pad(drawn.boxes[:, :1], (0, 0, 0, max(0, 1 - drawn.boxes.shape[1])))
    return boxes.cpu()


def _save(network: Any, done: int, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    weights = {name: weight.detach().contiguous() for name, weight in network.state_dict().items()}
    save_file({**weights, "pictures": torch.tensor(done)}, temporary)
    temporary.replace(path)


@torch.no_grad()
def latent_scale(network: Any, pictures: int = 256) -> float:
    """One over the standard deviation of latents over training pictures, the first stage's scaling factor."""
    means = []
    for _, drawn in rendered(9_999):
        means.append(network.encode(drawn.image * 2 - 1).latent_dist.mean)
        if sum(len(m) for m in means) >= pictures:
            break
    return round(1 / float(torch.cat(means).std()), 5)


@torch.no_grad()
def face_psnr(
    network: Any, people: int = 128, spoil: Callable[[Tensor, Sequence[Scene]], Tensor] | None = None
) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB through a round trip, on held-out people: whole pictures and face boxes. `spoil`
    puts errors on the latents (of unit deviation) in between."""
    scenes = [draw_scene(random.Random(f"psnr {i}"), person_of("heldout", 5_000 + i)) for i in range(people)]
    scale = network.config.scaling_factor
    whole, faces = [], []
    for start in range(0, people, 32):
        some = scenes[start : start + 32]
        drawn = render(some)
        z = network.encode(drawn.image * 2 - 1).latent_dist.mean
        if spoil is not None:
            z = spoil(z * scale, some) / scale
        made = network.decode(z).sample.clamp(-1, 1) / 2 + 0.5
        squared = (made - drawn.image) ** 2
        whole += squared.flatten(1).mean(1).tolist()
        for error, box in zip(squared, drawn.boxes[:, 0].round().long(), strict=True):
            x0, y0, x1, y1 = box.clamp(0, drawn.image.shape[-1]).tolist()
            faces.append(float(error[:, y0:y1, x0:x1].mean()))
    decibel = lambda errors: round(float(-10 * torch.tensor(errors).log10().mean()), 2)
    return {"psnr": decibel(whole), "face_psnr": decibel(faces)}
