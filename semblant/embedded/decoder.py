"""Teaching the decoder alone to read what a base paints: latents with errors in them.

What the encoder gives stays as it is, so latents that were made and bases that learned from them go on as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semblant.backbones.base import Base
from semblant.backbones.moment import Moment
from semblant.embedded.autoencoder import Drawn, crops, face_psnr, kept, learn, reconstruction_error, streamed
from semblant.world.captions import write
from semblant.world.scene import Scene

LEARNING_RATE = 3e-4
UNSTEADY = 0.25
"""Most white noise on the latents, as a share of their deviation. What a base leaves when it denoised is off by .06 to
.15, and a decoder that has only seen what its encoder gives turns .05 into a weave and .1 into crumpled faces (decision
0015)."""
LATEST = 0.2
"""Share of the schedule, from its clean end, in which a base is asked for its guess: there it knows where everything
is, and gets details wrong, a little of which a decoder can set right (decision 0015)."""
Latents = Float[Tensor, "n c h w"]
Spoil = Callable[[Latents, Sequence[Scene]], Latents]
"""From latents of unit deviation, and the scenes they are of, to what may stand in their place."""


def with_noise(generator: torch.Generator) -> Spoil:
    """White noise of up to `UNSTEADY`, another share of it on each."""

    def spoil(z: Latents, scenes: Sequence[Scene]) -> Latents:
        share = UNSTEADY * torch.rand(len(z), 1, 1, 1, generator=generator, device=z.device)
        return z + share * torch.randn(z.shape, generator=generator, device=z.device)

    return spoil


def as_guessed(base: Base, generator: torch.Generator, rng: random.Random) -> Spoil:
    """What `base` takes the latents for when noise is on them and it is told what they show."""
    steps = int(LATEST * base.schedule.timesteps)

    @torch.no_grad()
    def spoil(z: Latents, scenes: Sequence[Scene]) -> Latents:
        t = torch.randint(steps, (len(z),), generator=generator, device=z.device)
        x = base.schedule.noised(z, torch.randn(z.shape, generator=generator, device=z.device), t)
        told = base.text([write(scene, rng) for scene in scenes])
        return base.schedule.clean(x, base.denoise(x, Moment.of(t), told), t)

    return spoil


def steady_decoder(
    network: Any,
    work: Path,
    *,
    minutes: float,
    base: Base | None = None,
    size: int = 128,
    seed: int = 0,
    batch: int = 2,
    compute: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    stay: int = 0,
) -> nn.Module:
    """Teach the decoder of `network` for some minutes, on latents with white noise on them and, in every other step, on
    what `base` takes them for; it shares the encoder. The pictures follow from the seed. Numbers go to
    `work/decoder.jsonl`. Returns it on the CPU."""
    torch.manual_seed(seed)
    device = torch.device(device)
    network.to(device, memory_format=torch.channels_last).requires_grad_(False).train()
    learned = [*network.decoder.parameters(), *network.post_quant_conv.parameters()]
    for weight in learned:
        weight.requires_grad_(True)
    generator, chance = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    source = kept(stay, batch, size, device, generator) if stay else streamed(seed, batch, size, device)
    ways = [with_noise(chance)]
    if base is not None:
        ways.append(as_guessed(base.computing(compute), chance, random.Random(seed)))
    scale, step = network.config.scaling_factor, 0

    def loss_of(drawn: Drawn) -> Tensor:
        nonlocal step
        step += 1
        with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
            with torch.no_grad():
                z = network.encode(drawn.images).latent_dist.mean.float()
                spoiled = ways[step % len(ways)](z * scale, drawn.scenes) / scale
            latents, images = cut(spoiled, drawn, generator)
            return reconstruction_error(network.decode(latents).sample.float(), images)

    learn(learned, LEARNING_RATE, loss_of, source, minutes, work / "decoder.jsonl")
    return network.cpu().eval()


def cut(
    z: Latents, drawn: Drawn, generator: torch.Generator
) -> tuple[Float[Tensor, "m c a a"], Float[Tensor, "m 3 s s"]]:
    """Crops of the pictures, and of the latents the same cells."""
    cell = drawn.images.shape[-1] // z.shape[-1]
    images, places = crops(drawn, generator, cell)
    side = images.shape[-1] // cell
    pairs = zip([*z, *z], places, strict=True)
    parts = [own[:, y // cell : y // cell + side, x // cell : x // cell + side] for own, (x, y) in pairs]
    return torch.stack(parts).contiguous(memory_format=torch.channels_last), images


def decibels(network: Any, base: Base | None) -> dict[str, float]:
    """How near pictures come back through `network`: from their latents, from latents that are off by a tenth of their
    deviation, and from what `base` takes them for."""

    def tenth(z: Latents, _: Sequence[Scene]) -> Latents:
        return z + 0.1 * torch.randn(z.shape, generator=generator)

    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    ways: dict[str, Spoil] = {"off_a_tenth": tenth}
    if base is not None:
        ways["guessed"] = as_guessed(base, generator, rng)
    found = face_psnr(network)
    for way, spoil in ways.items():
        found |= {f"{name}_{way}": value for name, value in face_psnr(network, spoil=spoil).items()}
    return found
