"""How far can words reach? One row, ten rows and the whole U-Net learn the same unseen people from one portrait each.

If the U-Net reaches a person and the rows do not, the text path or the captions hold the rows back, and no tuning of a
method will help. `python -m semblant.bench.reach` prints the identity gain of each arm and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.judges import Judges, load_judges
from semblant.backbones.patch import Patch
from semblant.bench.sitter import Sitter, draw, subject_of
from semblant.data.pictures import to_tensor
from semblant.data.subject import Subject
from semblant.metrics.identity import identity_gain, reference_vectors
from semblant.patches.weights import Offsets
from semblant.training.learner import Example, Learner, Optimiser
from semblant.training.optimise import optimise
from semblant.training.precision import choose
from semblant.verbs import fit, load, sample

logger = logging.getLogger(__name__)

PROMPTS = ("a photo of {}", "a photo of {} on the beach")
SEEDS = 3


@dataclass
class WholeUNet(Learner):
    """Every weight of the U-Net learns one picture under one prompt."""

    latent: Tensor | None = None
    prompt: str = ""

    def draw(self, generator: torch.Generator) -> Sequence[Example]:
        """The picture, always."""
        assert self.latent is not None
        return [Example(self.latent, self.prompt)]

    def patches(self) -> Sequence[Patch]:
        """An offset for every weight."""
        return [Offsets(self.parameters)]

    def tensors(self) -> dict[str, Tensor]:
        """The offsets."""
        return {name: offset.detach() for name, offset in self.parameters.items()}


def whole_unet(base: Base, subject: Subject, steps: int, lr: float) -> WholeUNet:
    """A learner of all U-Net weights for a subject under the class word."""
    offsets = {
        name: torch.nn.Parameter(torch.zeros_like(weight))
        for name, weight in base.named_parameters()
        if name.startswith("unet.")
    }
    latent = base.encode(to_tensor(subject.images[0], base.size)[None])[0]
    return WholeUNet(offsets, Optimiser(lr=lr), steps, latent, f"a photo of {subject.class_word}")


def reach(
    base: Base, judges: Judges, people: Sequence[Sitter], steps: int, report: Callable[[str], None], lr: float
) -> list[dict[str, Any]]:
    """One record per person and arm: the identity gain over prompts and seeds."""
    records = []
    for sitter in people:
        subject = subject_of(sitter, base, "<them>")
        references = reference_vectors(draw(sitter.others(6)), judges)
        common: dict[str, Any] = {"steps": steps, "lr": lr, "compute": base.compute}
        plain: dict[str, Any] = {"flip": 0.0, "scale": (1.0, 1.0), "jitter": False}
        one = fit("textual-inversion", base, subject, batch=1, **common)
        ten = fit("sefi-ide", base, subject, expansion="direct", attention_weight=0.0, **common, **plain)
        learner = whole_unet(base, subject, steps, 1e-4)
        optimise(base, [learner], seeds=[0], compute=base.compute)
        arms: dict[str, dict[str, Any]] = {
            "class word": {},
            "one row": {"concepts": [one]},
            "ten rows": {"concepts": [ten]},
            "whole U-Net": {"patches": learner.patches()},
        }
        for arm, given in arms.items():
            word = "<them>" if "concepts" in given else "person"
            pictures = [
                picture for prompt in PROMPTS for picture in sample(base, prompt.format(word), n=SEEDS, **given)
            ]
            gain = identity_gain(pictures, references, judges)
            records.append({"person": sitter.index, "arm": arm, "identity_gain": gain, "steps": steps, "lr": lr})
            report(f"person {sitter.index:3d}  {arm:12s} {gain if gain is None else round(gain, 3)}")
    return records


def main() -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(prog="semblant.bench.reach", description=__doc__)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate of the rows")
    parser.add_argument("--out", type=Path, default=Path("build/reach.json"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sitters = [Sitter("tune", i) for i in range(given.people)]
    base = load(given.base)
    base = base.computing(choose(base))
    records = reach(base, load_judges("B"), sitters, given.steps, logger.info, given.lr)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(records, indent=1) + "\n")
    for arm in dict.fromkeys(r["arm"] for r in records):
        gains = [r["identity_gain"] for r in records if r["arm"] == arm and r["identity_gain"] is not None]
        logger.info("%-12s mean %.3f", arm, sum(gains) / max(1, len(gains)))


if __name__ == "__main__":
    main()
