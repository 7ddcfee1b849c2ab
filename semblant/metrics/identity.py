"""Identity: how much the people in pictures look like the subject.

`identity` is the mean cosine between the identity vector of a picture's face and those of the reference pictures; of
several faces the likest counts. `identity_gain` places it between strangers (0) and other pictures of the same person
(1):

    (similarity to the references - that of strangers) / (that of other pictures of the person - that of strangers)

all of them means. An undetected face counts as a stranger. Reference pictures must not be those a method learned from,
or copying is rewarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.judges import Judges
from semblant.errors import SemblantError
from semblant.metrics.detection import Seen, look

APART = 0.05
"""How much liker to one another than to strangers references have to be, to be of one person."""


def reference_vectors(subject: Any, judges: Judges) -> Float[Tensor, "references dim"]:
    """One identity vector per reference picture in which a face is found: that of its largest face.

    Raises SemblantError when no reference picture shows a face.
    """
    seen = look(subject, judges)
    rows = []
    for faces, vectors in zip(seen.faces, seen.identities, strict=True):
        if faces:
            rows.append(vectors[max(range(len(faces)), key=lambda i: faces[i].area)])
    if not rows:
        raise SemblantError(
            f"none of the {len(seen)} reference pictures shows a face that the detector finds, or an animal or thing "
            "of the drawn world; give pictures in which the subject is visible, a face larger than a fifth of them"
        )
    return torch.stack(rows)


def similarities(images: Any, references: Float[Tensor, "references dim"], judges: Judges) -> list[float | None]:
    """Per picture the mean cosine to the references, -1..1, of its likest face; None where no face is found."""
    found = look(images, judges).identities
    return [float((vectors @ references.T).mean(1).max()) if len(vectors) else None for vectors in found]


def stranger_level(references: Float[Tensor, "references dim"], strangers: Float[Tensor, "n dim"]) -> float:
    """Mean cosine between the references and people who are somebody else."""
    return float((references @ strangers.T).mean())


def same_person_level(references: Float[Tensor, "references dim"], otherwise: float) -> float:
    """Mean cosine between different reference pictures; `otherwise` when there is only one."""
    count = len(references)
    if count < 2:
        return otherwise
    cosines = references @ references.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def identity_gain(
    images: Seen | Any,
    references: Float[Tensor, "references dim"],
    judges: Judges,
    strangers: Float[Tensor, "n dim"] | None = None,
) -> float | None:
    """Where the pictures stand between strangers (0) and the person (1), see above; may lie outside.

    None when the references are as far from each other as from strangers: then they are no one person.
    """
    nobody = stranger_level(references, judges.strangers if strangers is None else strangers)
    somebody = same_person_level(references, judges.card["same_person"])
    return placed(similarities(images, references, judges), nobody, somebody)


def placed(alike: Sequence[float | None], nobody: float, somebody: float) -> float | None:
    """Where likenesses stand on average between `nobody` (0) and `somebody` (1); what is None counts as `nobody`.

    None when the two are no further apart than 0.05: then there is nothing to tell.
    """
    if somebody - nobody < APART:
        return None
    values = [nobody if value is None else value for value in alike]
    return (sum(values) / len(values) - nobody) / (somebody - nobody)
