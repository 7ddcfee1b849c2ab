"""What became of a fit, in one sentence: likeness, obedience, and what came along that should not have.

Pictures of a few prompts that no method learns from are sampled and measured by judges that no method may use. The
subject's own training pictures are what likeness is measured by, since a user may have no others; copying is told apart
from likeness by naming what was copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.backbones.loading import EMBEDDED
from semblant.data.doctor import TWINS, apart, thumbnail
from semblant.data.subject import PERSONS
from semblant.errors import SemblantError
from semblant.metrics.carrying import carried_over
from semblant.training.concepts import Concept
from semblant.world.prompts import demo_prompts

PROMPTS = demo_prompts()[:4]
"""A place, a deed or a style each, in words that no template of a method has."""
STEPS = 12
"""Of the solver: enough to judge by, and half of the base's own number."""
CARRIED = ("background", "style", "action", "clothes", "expression")
"""Facts that belong to the photograph and not to the person."""
HALF = 0.5
"""Copied is what is copied in at least this share of the pictures, and in two at least."""
REPEATED = 2 * TWINS
"""A training picture is repeated where thumbnails differ by less than different pictures of one person do."""


@dataclass(frozen=True)
class Verdict:
    """What the judges found; None where it could not be measured."""

    identity: float | None
    """0 like strangers, 1 like pictures of one person; a picture without a face counts as a stranger."""
    obeys: float | None
    """Share of the facts named in the prompts that hold."""
    copies: tuple[str, ...]
    """What came from the training pictures against the prompt."""
    prompts: tuple[str, ...]
    seed: int
    steps: int
    scores: Mapping[str, Any] = field(default_factory=dict)
    """All that `measure` says."""
    why: str = ""
    """Why likeness was not judged."""

    @property
    def sentence(self) -> str:
        """Such as "identity .62, obeys .81, copies the background"."""
        parts = [f"identity {figure(self.identity)}" if self.identity is not None else f"identity unknown ({self.why})"]
        parts.append(f"obeys {figure(self.obeys)}" if self.obeys is not None else "obedience unknown")
        parts.append(f"copies the {' and the '.join(self.copies)}" if self.copies else "copies nothing")
        if (detect := self.scores.get("detect", 1.0)) < HALF:
            parts.append(f"shows a face in only {detect:.0%} of the pictures" if detect else "shows no face")
        return ", ".join(parts)

    def record(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {"sentence": self.sentence, **vars(self), "scores": dict(self.scores)}


def judge(
    base: Base,
    concept: Concept,
    pictures: Sequence[Image.Image],
    *,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int, int, Tensor], None] | None = None,
) -> Verdict:
    """Sample one picture of each prompt (with `{}` for the word) and measure it; the concept stays as it is.

    `pictures` are what the concept was fitted to, as it saw them. Raises SemblantError for a base whose pictures no
    judge knows, and when there are no judges.
    """
    if base.architecture != EMBEDDED:
        raise SemblantError(
            f"no judge here knows what pictures of {base.name} look like: the judges know the drawn world of the "
            "embedded base only. Look at samples yourself"
        )
    judges = load_judges("B")
    asked = [prompt.replace("{}", concept.word) for prompt in prompts]
    images = verbs.sample(base, asked, concepts=[concept], seed=seed, steps=steps, progress=progress)
    why = (
        ""
        if concept.class_word.lower() in PERSONS
        else f"the judges know people only, and this is a {concept.class_word}"
    )
    scores = None
    if not why:
        try:
            scores = verbs.measure(images, subject=pictures, prompt=asked, trained_on=pictures)
            why = "" if scores.identity_gain is not None else "its pictures differ as strangers do"
        except SemblantError:
            why = "no face that the judges know is in its pictures"
    scores = scores or verbs.measure(images, prompt=asked, trained_on=pictures)
    carried = carried_over(images, asked, pictures, judges)
    copies = [f for f in CARRIED if len(along := carried.get(f, [])) > 1 and sum(along) / len(along) >= HALF]
    # Not by the copy rate: anybody in the pose and the room of a training picture is perceptually near it.
    if sum(_repeats(image, pictures) for image in images) >= HALF * len(images):
        copies = ["picture"]
    return Verdict(scores.identity_gain, scores.facts, tuple(copies), tuple(asked), seed, steps, scores.to_dict(), why)


def _repeats(image: Image.Image, pictures: Sequence[Image.Image]) -> bool:
    return any(apart(thumbnail(image), thumbnail(picture)) < REPEATED for picture in pictures)


def figure(value: float | None) -> str:
    """A number of two places without its leading zero: .62, -.05, 1.00; a dash for none."""
    if value is None:
        return "-"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
