"""Where words are looked at from on true pictures: from inside what they name or from elsewhere, and how much.

A render of the right answer is noised and denoised once at several timesteps under the prompt. Who looks where is then
known to the pixel, and does not depend on how well anything was generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from semblant.backbones.base import Base
from semblant.backbones.moment import Moment
from semblant.ops.attention import mass_inside
from semblant.patches.attention import Recorder
from semblant.world.renderer import PARTS, render
from semblant.world.scene import Scene

TIMESTEPS = (100, 300, 500, 700, 900)
"""One in the middle of each fifth of the schedule, so that every stage of five is asked once."""
NO_FACE = ("background", "neck", "neck_l", "cloth")
DIFFERS = 0.02
"""A pixel that an object changes by more than this belongs to the object or its shadow."""


def face_mask(scene: Scene, size: int) -> Float[Tensor, "size size"]:
    """1 on the head of the first person: face, hair, hat."""
    drawn = render([scene], size)
    head = torch.ones(len(PARTS), dtype=torch.bool)
    head[[PARTS.index(part) for part in NO_FACE if part in PARTS]] = False
    return (head[drawn.parts[0].long()] & drawn.instances[0, 0]).float()


def object_mask(scene: Scene, size: int) -> Float[Tensor, "size size"]:
    """1 where the first person's action shows: the pixels that differ from the scene without it."""
    both = render([scene, scene.change(action="none")], size, labels=False).image
    return ((both[0] - both[1]).abs().amax(0) > DIFFERS).float()


@dataclass(frozen=True)
class Mass:
    """The attention that a word gets, about what it names."""

    inside: float
    """The share of it that comes from inside, 0..1: that of the area, for a word looked at from everywhere alike."""
    outside: float
    """How much a place outside looks at the word, 0..1: of all its attention."""
    within: float
    """How much a place inside does."""


@torch.no_grad()
def masses(
    base: Base, prompt: str, scene: Scene, masks: Mapping[str, Float[Tensor, "size size"]], seed: int = 0
) -> dict[str, Mass]:
    """For every word of `masks` its attention about its mask: mean over heads, sites and `TIMESTEPS`.

    `base` is a view with its words attached; words that the prompt lacks are left out.
    """
    found: dict[str, list[Mass]] = {}
    for maps, positions in _passes(base, prompt, scene, TIMESTEPS, seed):
        for word, mask in masks.items():
            if places := positions.get(word):
                found.setdefault(word, []).extend(_about(maps, places, mask))
    mean = lambda values: sum(values) / len(values)
    return {
        word: Mass(*(mean([getattr(mass, one.name) for mass in some]) for one in fields(Mass)))
        for word, some in found.items()
    }


@torch.no_grad()
def look_of(
    base: Base, prompt: str, scene: Scene, word: str, timesteps: Sequence[int] = TIMESTEPS, seed: int = 0
) -> Float[Tensor, "size size"]:
    """The share of attention that each pixel of a scene gives a word: mean over heads, timesteps and the sites that see
    most finely, which tell places best (Hertz et al. 2022, arXiv 2208.01626, take the 16 x 16 ones), enlarged to the
    picture. KeyError when the prompt lacks the word."""
    looks = []
    for maps, positions in _passes(base, prompt, scene, timesteps, seed):
        finest = max(site.shape[2] for site in maps)
        looks += [site.float().mean(1)[0, :, list(positions[word])].sum(-1) for site in maps if site.shape[2] == finest]
    look = torch.stack(looks).mean(0)
    side = round(len(look) ** 0.5)
    return F.interpolate(look.view(1, 1, side, side), size=(base.size, base.size), mode="bilinear")[0, 0]


def _passes(
    base: Base, prompt: str, scene: Scene, timesteps: Sequence[int], seed: int
) -> Iterator[tuple[list[Tensor], Mapping[str, Sequence[int]]]]:
    """One pass of the noised scene at each timestep: cross-attention maps, site by site, and where the words stand."""
    picture = render([scene], base.size, labels=False).image * 2 - 1
    latent = base.encode(picture.to(base.device))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    context = base.text(prompt)
    watched = base.patched(Recorder())
    for time in timesteps:
        at = torch.tensor([time], device=latent.device)
        moment = Moment.of(at)
        watched.denoise(base.schedule.noised(latent, noise, at), moment, context)
        maps = moment.recorded("map")
        assert isinstance(maps, list)
        yield maps, context.rows[0].positions


def _about(maps: Sequence[Tensor], places: Sequence[int], mask: Tensor) -> list[Mass]:
    found = []
    for site in maps:
        looks = site.float().mean(1)[:, :, list(places)].sum(-1)
        side = round(looks.shape[1] ** 0.5)
        grid, inside = looks.view(1, side, side), F.adaptive_avg_pool2d(mask[None, None].to(looks), side)[0]
        within, elsewhere = ((grid * area).sum() / area.sum().clamp_min(1e-12) for area in (inside, 1 - inside))
        found.append(Mass(float(mass_inside(grid, inside)), float(elsewhere), float(within)))
    return found
