"""How well a base takes to being edited: do pictures come back from their own noise, do words look at what they name?

Editing methods stand on both. `python -m semblant.bench.handling` prints them for the embedded base or another.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import mean, median

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.bench.attention_mass import look_of, object_mask
from semblant.sampling.loop import Branches, ddim_invert, sample_latents
from semblant.verbs import load
from semblant.world.captions import compose, write
from semblant.world.renderer import render
from semblant.world.scene import draw_scene, person_of

STEPS = 50
"""Of the way to the noise, and of the way back (null-text inversion's number; Mokady et al. 2022, arXiv 2211.09794)."""
BATCH = 16
OBJECTS = {
    "guitar": "playing guitar",
    "cup": "holding a cup of latte",
    "basketball": "holding a basketball",
    "book": "reading a book",
    "phone": "on the phone",
}
"""Words for things, and the actions that bring them."""
TIMESTEPS = (100, 300, 500)
"""Where the picture is still to be seen under the noise."""
FIRST_PERSON = 7_000
"""Of the held-out people who are shown; no other measuring shows these."""


@torch.no_grad()
def inversion(base: Base, pictures: int = 64, steps: int = STEPS) -> dict[str, float]:
    """Median peak signal-to-noise ratio in dB of renders that were taken back to their noise by DDIM under their
    captions, without guidance, and denoised again: against the renders, against what the autoencoder alone makes of
    them, and of that against the renders."""
    rng = random.Random("semblant inversion")
    scenes = [draw_scene(rng, person_of("heldout", FIRST_PERSON + i)) for i in range(pictures)]
    found: dict[str, list[float]] = {"render": [], "autoencoder": [], "autoencoder alone": []}
    for start in range(0, pictures, BATCH):
        some = scenes[start : start + BATCH]
        drawn = render(some, base.size, labels=False).image.to(base.device)
        z = base.encode(drawn * 2 - 1)
        told = Branches.of(base.text([write(scene, rng) for scene in some]), base.text(""))
        noise = ddim_invert(base, z, told, steps=steps)[0]
        back = _picture(base, sample_latents(base, noise, told, steps=steps, guidance=1.0))
        alone = _picture(base, z)
        pairs = {"render": (back, drawn), "autoencoder": (back, alone), "autoencoder alone": (alone, drawn)}
        for against, (one, other) in pairs.items():
            found[against] += (-10 * (one - other).square().flatten(1).mean(1).log10()).tolist()
    return {against: round(median(values), 2) for against, values in found.items()}


def _picture(base: Base, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 size size"]:
    return (base.decode(latents) / 2 + 0.5).clamp(0, 1)


def localisation(base: Base, each: int = 8) -> dict[str, float]:
    """For each word for a thing, mean intersection over union of where the thing is in renders of held-out people and
    as many pixels that look at the word most; over all words, and what a look at random would have."""
    rng = random.Random("semblant localisation")
    found, shares_of_pictures = {}, []
    for place, (word, action) in enumerate(OBJECTS.items()):
        shares = []
        for i in range(each):
            person = person_of("heldout", FIRST_PERSON + 100 * place + i)
            scene = draw_scene(rng, person, action=action, camera="portrait", style="photo", light="plain")
            prompt = _prompt(action, word, scene.background, rng)
            look = look_of(base, prompt, scene, word, TIMESTEPS, seed=i)
            mask = object_mask(scene, base.size)
            shares.append(overlap(look, mask))
            shares_of_pictures.append(float(mask.mean()))
        found[word] = round(mean(shares), 3)
    chance = mean(share / (2 - share) for share in shares_of_pictures)
    return {**found, "all": round(mean(found.values()), 3), "at random": round(chance, 3)}


def _prompt(action: str, word: str, background: str, rng: random.Random) -> str:
    """A caption of the action that has the word in it."""
    while True:
        caption = compose({"action": action, "background": background}, rng, camera="portrait", style="photo")
        if word in caption.replace(",", " ").split():
            return caption


def overlap(look: Float[Tensor, "h w"], mask: Float[Tensor, "h w"]) -> float:
    """Intersection over union of a mask and as many places that have the most of `look`; 0 for an empty mask."""
    count = int(mask.sum())
    if count == 0:
        return 0.0
    most = torch.zeros(mask.numel(), dtype=torch.bool)
    most[look.flatten().cpu().topk(count).indices] = True
    here = mask.flatten().cpu() > 0
    return float((most & here).sum() / (most | here).sum())


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.handling", description=__doc__)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--pictures", type=int, default=64, help="renders that are inverted (default: %(default)s)")
    parser.add_argument("--each", type=int, default=8, help="renders of each thing (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/handling.json"))
    given = parser.parse_args()
    base = load(given.base)
    found = {
        "localisation, IoU": localisation(base, given.each),
        "inversion, dB": inversion(base, given.pictures),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
