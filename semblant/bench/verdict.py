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
from semblant.metrics.beings import being_vectors, beings_shown
from semblant.metrics.carrying import carried_over
from semblant.metrics.detection import look
from semblant.training.concepts import Concept
from semblant.world.beings import KINDS
from semblant.world.captions import read
from semblant.world.prompts import demo_prompts

PROMPTS = demo_prompts()[:4]
"""A place, a deed or a style each, in words that no template of a method has."""
PROMPTS_OF_OTHERS = (
    "a photo of {} on the beach",
    "an oil painting of {} in the forest",
    "a photo of {} in the snow at sunset",
    "a sketch of {} in the city",
)
"""The same for an animal or thing, which plays no guitar."""
STEPS = 12
"""Of the solver: enough to judge by, and half of the base's own number."""
CARRIED = ("background", "style", "action", "clothes", "expression")
"""Facts that belong to the photograph and not to the person."""
NO_FACE = "no face that the judges know is in its pictures"
SOMEBODY = "<somebody>"
"""What judges hear in place of the word, which may be one that means something to them, such as "snow"."""
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
    what: str = "face"
    """What was looked for in the pictures: a face, or the kind of animal or thing."""
    there: float = 1.0
    """Share of the pictures that show one."""

    @property
    def sentence(self) -> str:
        """Such as "identity .62, obeys .81, copies the background"."""
        parts = [f"identity {figure(self.identity)}" if self.identity is not None else f"identity unknown ({self.why})"]
        parts.append(f"obeys {figure(self.obeys)}" if self.obeys is not None else "obedience unknown")
        parts.append(f"copies the {' and the '.join(self.copies)}" if self.copies else "copies nothing")
        if self.there < HALF:
            parts.append(
                f"shows a {self.what} in only {self.there:.0%} of the pictures"
                if self.there
                else f"shows no {self.what}"
            )
        return ", ".join(parts)

    def record(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {"sentence": self.sentence, **vars(self), "scores": dict(self.scores)}


def judge(
    base: Base,
    concept: Concept,
    pictures: Sequence[Image.Image],
    *,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int, int, Tensor], None] | None = None,
) -> Verdict:
    """Sample one picture of each prompt (with `{}` for the word) and measure it; the concept stays as it is. Without
    prompts they are `PROMPTS`, or `PROMPTS_OF_OTHERS` for what is no person.

    `pictures` are what the concept was fitted to, as it saw them. Raises SemblantError for a base whose pictures no
    judge knows, and when there are no judges.
    """
    if base.architecture != EMBEDDED:
        raise SemblantError(
            f"no judge here knows what pictures of {base.name} look like: the judges know the drawn world of the "
            "embedded base only. Look at samples yourself"
        )
    judges = load_judges("B")
    person, kind = concept.class_word.lower() in PERSONS, kind_of(concept.class_word)
    texts = prompts or prompts_for(concept.class_word)
    asked, told = ([prompt.replace("{}", word) for prompt in texts] for word in (concept.word, SOMEBODY))
    images = verbs.sample(base, asked, concepts=[concept], seed=seed, steps=steps, progress=progress)
    why = "" if person or kind else f"the judges know people, {', '.join(KINDS)}, and this is a {concept.class_word}"
    seen = look(pictures, judges)
    if person and not any(seen.faces):
        why = NO_FACE
    if kind and (any(seen.faces) or being_vectors(seen, judges)[0] != kind):
        why = f"the judges see a face or another thing in its pictures, and no {kind} alone"
    scores = None
    if not why:
        try:
            scores = verbs.measure(images, subject=pictures, prompt=told, trained_on=pictures)
            why = "" if scores.identity_gain is not None else "its pictures differ as strangers do"
        except SemblantError:
            why = NO_FACE
    scores = scores or verbs.measure(images, prompt=told, trained_on=pictures)
    there = scores.detect
    if not person:
        shown = [reading["kind"] == kind for reading in beings_shown(images, judges)]
        there = sum(shown) / len(shown) if kind else 1.0
    carried = carried_over(images, told, pictures, judges)
    copies = [f for f in CARRIED if len(along := carried.get(f, [])) > 1 and sum(along) / len(along) >= HALF]
    # Not by the copy rate: anybody in the pose and the room of a training picture is perceptually near it.
    if sum(_repeats(image, pictures) for image in images) >= HALF * len(images):
        copies = ["picture"]
    measured = scores.to_dict()
    return Verdict(
        scores.identity_gain,
        scores.facts,
        tuple(copies),
        tuple(asked),
        seed,
        steps,
        measured,
        why,
        kind or "face",
        there,
    )


def prompts_for(class_word: str) -> tuple[str, ...]:
    """What a subject of this class word is judged by."""
    return PROMPTS if class_word.lower() in PERSONS else PROMPTS_OF_OTHERS


def kind_of(class_word: str) -> str:
    """The kind of animal or thing that a class word names ("kitten": "cat"); empty for people and the unknown."""
    if class_word.lower() in PERSONS:
        return ""
    told = [being["kind"] for being in read(f"a {class_word}").others]
    return next(iter(told or [kind for kind in KINDS if kind.split()[-1] == class_word.lower()]), "")


def _repeats(image: Image.Image, pictures: Sequence[Image.Image]) -> bool:
    return any(apart(thumbnail(image), thumbnail(picture)) < REPEATED for picture in pictures)


def figure(value: float | None) -> str:
    """A number of two places without its leading zero: .62, -.05, 1.00; a dash for none."""
    if value is None:
        return "-"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
