"""How good an embedded base is: facts obeyed on a fixed list of captions, faces detected, named people recognised."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.judges import Judges
from semblant.metrics.attributes import facts_held, share_by_fact
from semblant.metrics.beings import beings_held
from semblant.metrics.detection import detection
from semblant.metrics.identity import identity_gain, reference_vectors
from semblant.metrics.pairs import binding
from semblant.sampling.loop import Branches, noise, sample_latents
from semblant.world.facts import VALUES
from semblant.world.names import name_of
from semblant.world.prompts import captions_of_beings, captions_of_two, evaluation_captions
from semblant.world.renderer import render
from semblant.world.scene import NAMED_PEOPLE, draw_scene, named_person

STEPS = 25
GUIDANCE = 4.0


@torch.no_grad()
def draw_pictures(
    base: Base,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 16,
) -> Float[Tensor, "n 3 size size"]:
    """One picture in 0..1 of every prompt; picture k starts from seed `seed + k`."""
    pictures = []
    null = base.text("")
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        x = noise(base, range(seed + start, seed + start + len(some)), (base.size, base.size))
        latents = sample_latents(base, x, Branches.of(base.text(some), null), steps=steps, guidance=guidance)
        pictures.append((base.decode(latents) / 2 + 0.5).clamp(0, 1))
    return torch.cat(pictures)


def round_trip(base: Base, batch: int = 16) -> Callable[[Tensor], Tensor]:
    """Through the base's autoencoder and back: a function of pictures [n, 3, size, size] in 0..1 to such pictures."""

    @torch.no_grad()
    def there_and_back(images: Tensor) -> Tensor:
        parts = [base.decode(base.encode(part.to(base.device) * 2 - 1)) / 2 + 0.5 for part in images.split(batch)]
        return torch.cat(parts).clamp(0, 1)

    return there_and_back


def measure_base(base: Base, judges: Judges, captions: int = 512, *, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Accuracy over the facts that captions name, per fact and macro-averaged, as it is and corrected for chance; and
    the share of pictures with a face.

    Chance for a fact is how often a reader of blank minds would hit: the sum of squared shares of its named values.
    """
    listed = evaluation_captions(captions)
    pictures = draw_pictures(base, [text for text, _ in listed], guidance=guidance)
    held = facts_held(pictures, [text for text, _ in listed], judges)
    by_fact = share_by_fact(held)
    named: dict[str, Counter[str]] = {}
    for _, facts in listed:
        for fact, value in facts.items():
            named.setdefault(fact, Counter())[value] += 1
    corrected = {}
    for fact, share in by_fact.items():
        counts = named[fact]
        total = sum(counts.values())
        chance = sum((c / total) ** 2 for c in counts.values()) if len(counts) > 1 else 1 / len(VALUES[fact])
        corrected[fact] = (share - chance) / (1 - chance)
    return {
        "captions": captions,
        "steps": STEPS,
        "guidance": guidance,
        "macro": _mean(by_fact.values()),
        "macro_corrected": _mean(corrected.values()),
        "faces": _mean(map(float, detection(pictures, judges))),
        "facts": {fact: round(share, 3) for fact, share in by_fact.items()},
    }


def measure_two(base: Base, judges: Judges, captions: int = 128, *, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Whether each of two people has what a caption says of them: see `metrics.pairs.binding`; and the same of pictures
    drawn by the world for these captions, which says how much the judges can see."""
    told = captions_of_two(captions)
    made = draw_pictures(base, [caption for caption, _ in told], guidance=guidance)
    prompts = [caption for caption, _ in told]
    drawn = render([scene for _, scene in told]).image
    return {**binding(made, prompts, judges).to_dict(), "drawn": binding(drawn, prompts, judges).to_dict()}


def measure_beings(base: Base, judges: Judges, captions: int = 64, *, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Share of the facts that captions name of an animal or thing, its kind among them, that hold; and the same of what
    the world draws for these captions."""
    told = captions_of_beings(captions)
    prompts = [caption for caption, _ in told]
    made = share_by_fact(beings_held(draw_pictures(base, prompts, guidance=guidance), prompts, judges))
    drawn = share_by_fact(beings_held(render([scene for _, scene in told]).image, prompts, judges))
    shares = lambda found: {fact: round(share, 3) for fact, share in found.items()}
    return {"captions": captions, "facts": shares(made), "drawn": shares(drawn)}


def measure_named(base: Base, judges: Judges, people: int = 24, *, guidance: float = GUIDANCE) -> float:
    """Identity gain of "a photo of <name>" for named people: 0 like strangers, 1 like other pictures of the person."""
    gains = []
    for i in range(people):
        index = i * NAMED_PEOPLE // people
        rng = random.Random(f"named reference {index}")
        plain: dict[str, Any] = {
            "style": "photo",
            "light": "plain",
            "glasses": "none",
            "hat": "none",
            "beard": "none",
            "dyed": "none",
        }
        scenes = [draw_scene(rng, named_person(index), camera="portrait", action="none", **plain) for _ in range(4)]
        made = draw_pictures(base, [f"a photo of {name_of(index)}"] * 2, seed=1000 * i, guidance=guidance)
        gain = identity_gain(made, reference_vectors(render(scenes).image, judges), judges)
        if gain is not None:
            gains.append(gain)
    return _mean(gains)


def _mean(values: Any) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4) if listed else float("nan")
