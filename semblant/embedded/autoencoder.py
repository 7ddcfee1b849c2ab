"""Training the embedded autoencoder on crops of rendered pictures."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semblant.backbones.blueprint import Blueprint, new_autoencoder
from semblant.embedded.latents import record, rendered
from semblant.world.renderer import render
from semblant.world.scene import draw_scene, person_of

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
STEADY_RATE = 3e-4
"""Learning rate with which the decoder alone learns to read what the base paints."""
UNSTEADY = 0.25
"""Most noise on the latents it then learns from, as a share of their deviation. What a base leaves when it denoised
is off by .06 to .15, and a decoder that has only seen what its encoder gives turns .05 into a weave and .1 into
crumpled faces (decision 0015)."""
SAVE_MINUTES = 2.0
FACE_CROPS = 0.6
"""Share of crops taken around a face."""


def crops(images: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
    """One crop [n, 3, CROP, CROP] of each picture, most of them around the first face."""
    out = []
    for image, box in zip(images, boxes[:, 0], strict=True):
        room = image.shape[-1] - CROP
        corner = (torch.rand(2, generator=generator) * room).long()
        if torch.rand((), generator=generator) < FACE_CROPS:
            centre = (box[:2] + box[2:]) / 2 + (torch.rand(2, generator=generator) - 0.5) * 32
            corner = (centre - CROP / 2).round().long().clamp(0, room)
        x, y = corner.tolist()
        out.append(image[:, y : y + CROP, x : x + CROP])
    return torch.stack(out)


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
    kept: int = 0,
) -> nn.Module:
    """Train, or go on training, for some minutes; the state lies in `work` and the result, on the CPU, is returned.

    The learning rate falls to zero over the minutes given, so a later call warms it up again from where it stands.
    Every picture is drawn for one step; or `kept` of them are drawn once and stay on the device, for one fast enough to
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
    source = _kept(kept, batch, plan.size, device, generator) if kept else _streamed(done, batch, plan.size, device)
    network.train()

    def loss_of(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
            posterior = network.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=chance, device=device)
            made = network.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence = posterior.kl().mean().float()
        anchor = (posterior.mean[:, :3].float() - block_colours(images)).square().mean()
        return reconstruction_error(made, images) + KL_WEIGHT * divergence + ANCHOR_WEIGHT * anchor

    learned, log_file = list(network.parameters()), work / "autoencoder.jsonl"
    save = lambda done: _save(network, done, state)
    done = _learn(learned, LEARNING_RATE, loss_of, source, generator, minutes, log_file, done, save)
    network = network.cpu()
    network.eval()
    network.register_to_config(scaling_factor=latent_scale(network))
    _save(network, done, state)
    return network


def steady_decoder(
    network: Any,
    work: Path,
    *,
    minutes: float,
    size: int = 128,
    seed: int = 0,
    batch: int = 2,
    compute: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    kept: int = 0,
) -> nn.Module:
    """Teach the decoder of `network` alone to read latents with errors in them; what the encoder gives stays as it is,
    so bases that learned from it go on as they are. Numbers go to `work/decoder.jsonl`. Returns it on the CPU."""
    torch.manual_seed(seed)
    device = torch.device(device)
    network.to(device, memory_format=torch.channels_last).requires_grad_(False).train()
    learned = [*network.decoder.parameters(), *network.post_quant_conv.parameters()]
    for weight in learned:
        weight.requires_grad_(True)
    generator, chance = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    source = _kept(kept, batch, size, device, generator) if kept else _streamed(0, batch, size, device)

    def loss_of(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
            with torch.no_grad():
                z = network.encode(images).latent_dist.mean
                off = UNSTEADY * torch.rand(len(z), 1, 1, 1, generator=chance, device=device)
                noise = torch.randn(z.shape, generator=chance, device=device) / network.config.scaling_factor
            return reconstruction_error(network.decode(z + off * noise).sample.float(), images)

    _learn(learned, STEADY_RATE, loss_of, source, generator, minutes, work / "decoder.jsonl")
    return network.cpu().eval()


def _learn(
    learned: list[nn.Parameter],
    rate: float,
    loss_of: Callable[[Tensor], Tensor],
    source: Iterator[tuple[Tensor, Tensor]],
    generator: torch.Generator,
    minutes: float,
    log_file: Path,
    done: int = 0,
    save: Callable[[int], None] = lambda done: None,
) -> int:
    """Lower `loss_of` crops of pictures for some minutes, at a rate that falls to zero; how many were seen in all."""
    optimiser = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
    began = saved = time.monotonic()
    for step, (pictures, boxes) in enumerate(source):
        if (spent := (time.monotonic() - began) / 60) >= minutes:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (done + 10) / 200) * max(0.02, 1 - spent / minutes)
        # Each picture gives two crops: drawing it costs more than learning from one of them.
        images = torch.cat([crops(pictures, boxes, generator) for _ in range(2)])
        loss = loss_of(images.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        done += len(pictures)
        if time.monotonic() - saved > SAVE_MINUTES * 60:
            save(done)
            saved = time.monotonic()
        if step % 160 == 159:
            record(log_file, pictures=done, loss=round(float(loss.detach()), 5), minutes=round(spent, 2))
    return done


def _streamed(done: int, batch: int, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures in -1..1, drawn anew without end, and their face boxes on the CPU."""
    for shard in count(10_000 + done // 1024):
        for _, drawn in rendered(shard, size, batch, str(device)):
            yield drawn.image * 2 - 1, drawn.boxes.cpu()


def _kept(
    pictures: int, batch: int, size: int, device: torch.device, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of `pictures` that stay on the device, as bytes."""
    images, boxes = [], []
    for shard in range(10_000, 10_000 + -(-pictures // 1024)):
        for _, drawn in rendered(shard, size, 1024, str(device)):
            images.append((drawn.image * 255).round().to(torch.uint8))
            boxes.append(drawn.boxes.cpu())
    image, box = torch.cat(images), torch.cat(boxes)
    while True:
        rows = torch.randint(len(image), (batch,), generator=generator)
        yield image[rows.to(device)].float() / 127.5 - 1, box[rows]


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
def face_psnr(network: Any, people: int = 128, off: float = 0.0) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB through a round trip, on held-out people: whole pictures and face boxes. `off`:
    noise on the latents, as a share of their deviation."""
    generator = torch.Generator().manual_seed(0)
    scenes = [draw_scene(random.Random(f"psnr {i}"), person_of("heldout", 5_000 + i)) for i in range(people)]
    whole, faces = [], []
    for start in range(0, people, 32):
        drawn = render(scenes[start : start + 32])
        z = network.encode(drawn.image * 2 - 1).latent_dist.mean
        z = z + off * torch.randn(z.shape, generator=generator) / network.config.scaling_factor
        made = network.decode(z).sample.clamp(-1, 1) / 2 + 0.5
        squared = (made - drawn.image) ** 2
        whole += squared.flatten(1).mean(1).tolist()
        for error, box in zip(squared, drawn.boxes[:, 0].round().long(), strict=True):
            x0, y0, x1, y1 = box.clamp(0, drawn.image.shape[-1]).tolist()
            faces.append(float(error[:, y0:y1, x0:x1].mean()))
    decibel = lambda errors: round(float(-10 * torch.tensor(errors).log10().mean()), 2)
    return {"psnr": decibel(whole), "face_psnr": decibel(faces)}
