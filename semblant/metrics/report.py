"""Everything that is measured about generated pictures, in one record.

prompt            mean CLIP score
identity          mean similarity to the reference pictures, over pictures with a face
identity_or_zero  the same over all pictures, 0 where no face is found (ID of Celeb-Basis, arXiv 2306.00926)
identity_gain     0 like strangers, 1 like other pictures of the person
detect            share of pictures with a face
id_prompt         identity where the prompt was followed, else 0 (ID(Prompt)); "followed" is a CLIP score that 95 of 100
                  pictures reach with a prompt that is true of them
facts             share of the named facts that hold
copy_rate         share of pictures that copy a picture the method learned from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.being_judge import NONE
from semblant.backbones.judges import Judges, load_judges
from semblant.errors import SemblantError
from semblant.metrics.attributes import facts_held, share_by_fact, share_held
from semblant.metrics.beings import being_gain, being_likeness, being_vectors, beings_held
from semblant.metrics.clip_score import clip_scores
from semblant.metrics.copying import copies
from semblant.metrics.detection import Seen, look
from semblant.metrics.identity import identity_gain, reference_vectors, similarities


@dataclass(frozen=True)
class Scores:
    """What was measured; None where it does not apply or nothing was there to measure."""

    n: int
    """Pictures measured."""
    detect: float
    prompt: float
    identity: float | None = None
    identity_or_zero: float | None = None
    identity_gain: float | None = None
    id_prompt: float | None = None
    facts: float | None = None
    facts_by_name: dict[str, float] = field(default_factory=dict)
    copy_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)


def measure(
    images: Any,
    *,
    subject: Any = None,
    prompt: str | Sequence[str],
    judges: Judges | None = None,
    trained_on: Any = None,
    strangers: Float[Tensor, "n dim"] | None = None,
) -> Scores:
    """Measure pictures (PIL, or tensors in 0..1) against a prompt and, if given, against pictures of a subject.

    `subject`: reference pictures of the person, best others than the method has seen; without them nothing is said
    about identity. Where they show no face but an animal or thing, identity is that one's among its kind. `prompt`:
    one text for all pictures, or one for each. `trained_on`: the pictures the method learned from, for the copy
    rate. `judges` defaults to copy B, which no method may use. `strangers`: identity vectors to use in place of the
    shipped ones. Raises SemblantError for no pictures, numbers of prompts that do not fit, or references that show
    nobody and nothing.
    """
    judges = judges or load_judges("B")
    seen = look(images, judges)
    prompts = [prompt] * len(seen) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(seen):
        raise SemblantError(
            f"{len(seen)} pictures and {len(prompts)} prompts; give one prompt, or one for each picture"
        )
    found = [bool(faces) for faces in seen.faces]
    fits = clip_scores(seen, prompts, judges)
    held = [
        {**facts, **{f"being {fact}": holds for fact, holds in being.items()}}
        for facts, being in zip(facts_held(seen, prompts, judges), beings_held(seen, prompts, judges), strict=True)
    ]
    scores: dict[str, Any] = {}
    if subject is not None:
        alike, gain = _likeness(seen, look(subject, judges), judges, strangers)
        faces = [value for value in alike if value is not None]
        followed = [fit >= judges.card["clip_threshold"] for fit in fits]
        scores = {
            "identity": sum(faces) / len(faces) if faces else None,
            "identity_or_zero": sum(faces) / len(seen),
            "identity_gain": gain,
            "id_prompt": sum(value or 0.0 for value, fit in zip(alike, followed, strict=True) if fit) / len(seen),
        }
    if trained_on is not None:
        scores["copy_rate"] = float(torch.tensor(copies(seen, trained_on, judges)).float().mean())
    return Scores(
        n=len(seen),
        detect=sum(found) / len(seen),
        prompt=sum(fits) / len(fits),
        facts=share_held(held),
        facts_by_name=share_by_fact(held),
        **scores,
    )


def _likeness(
    seen: Seen, subject: Seen, judges: Judges, strangers: Float[Tensor, "n dim"] | None
) -> tuple[list[float | None], float | None]:
    """Per picture the similarity to the subject, and the gain: of its face, or, where no reference shows a face and
    they show an animal or thing, of that."""
    kind, vectors = (NONE, None) if any(subject.faces) else being_vectors(subject, judges)
    if vectors is not None and len(vectors):
        likeness = being_likeness(seen, kind, vectors, judges)
        return likeness, being_gain(likeness, kind, vectors, judges)
    references = reference_vectors(subject, judges)
    return similarities(seen, references, judges), identity_gain(seen, references, judges, strangers)
