"""Animals and things: is the one that was named there, is it as the prompt says, and is it the subject?

The prompt names them in the words of the caption grammar; the judge reads one animal or thing of a picture. Likeness is
scored as for people (`metrics.identity`): 0 is like others of the same kind, 1 like other pictures of the same one. A
picture that shows another kind, or none, counts as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.being_judge import NONE
from semblant.backbones.faces import as_pictures
from semblant.backbones.judges import Judges
from semblant.metrics.detection import AT_ONCE, Seen
from semblant.metrics.identity import placed, same_person_level
from semblant.world.captions import read


@torch.no_grad()
def beings_shown(images: Seen | Any, judges: Judges) -> list[dict[str, str]]:
    """Per picture (PIL, or tensors in 0..1) what the judge reads of the animal or thing in it; "kind" is "none" where
    it sees none."""
    pictures = _pictures(images, judges)
    return [reading for part in pictures.split(AT_ONCE) for reading in judges.beings.read(part)]


def beings_held(images: Seen | Any, prompts: Sequence[str], judges: Judges) -> list[dict[str, bool]]:
    """Per picture, for every fact that its prompt names of its first animal or thing, whether it holds: "kind", and of
    what is of that kind "colour", "pattern", "pose" and so on. Empty where the prompt names none."""
    known = judges.beings.values
    told = [next(iter(read(prompt).others), {}) for prompt in prompts]
    if not any(told):
        return [{} for _ in told]
    held = []
    for reading, named in zip(beings_shown(images, judges), told, strict=True):
        right = reading["kind"] == named.get("kind")
        held.append({f: right and reading[f] == v for f, v in named.items() if v in known.get(f, ())})
    return held


@torch.no_grad()
def being_vectors(subject: Seen | Any, judges: Judges) -> tuple[str, Float[Tensor, "references dim"]]:
    """The kind that most reference pictures show, and the vectors of those that do; `NONE` and no vectors where that is
    none."""
    pictures = _pictures(subject, judges)
    kinds = [reading["kind"] for reading in beings_shown(pictures, judges)]
    kind = Counter(kinds).most_common(1)[0][0]
    rows = [row for row, shown in enumerate(kinds) if shown == kind != NONE]
    return kind, judges.beings(pictures[rows]) if rows else pictures.new_zeros(0, judges.being_strangers.shape[-1])


@torch.no_grad()
def being_likeness(
    images: Seen | Any, kind: str, references: Float[Tensor, "references dim"], judges: Judges
) -> list[float | None]:
    """Per picture the mean cosine to the references, -1..1; None where it shows no such kind."""
    pictures = _pictures(images, judges)
    shown = [reading["kind"] for reading in beings_shown(pictures, judges)]
    vectors = torch.cat([judges.beings(part) for part in pictures.split(AT_ONCE)])
    alike = (vectors @ references.T).mean(1).tolist()
    return [value if it == kind else None for it, value in zip(shown, alike, strict=True)]


def being_gain(
    alike: Sequence[float | None], kind: str, references: Float[Tensor, "references dim"], judges: Judges
) -> float | None:
    """Where pictures of these likenesses stand between others of the kind (0) and the subject (1); may lie outside.
    None when the references are as far from each other as from others of their kind."""
    strangers = judges.being_strangers[judges.beings.values["kind"].index(kind)]
    nobody = float((references @ strangers.T).mean())
    somebody = same_person_level(references, judges.card["same_being"])
    return placed(alike, nobody, somebody)


def _pictures(images: Seen | Any, judges: Judges) -> Float[Tensor, "n 3 s s"]:
    return images.images if isinstance(images, Seen) else as_pictures(images).to(judges.strangers.device)
