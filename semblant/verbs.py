"""The verbs of the library: load, fit, sample, measure. The one place that joins methods with loops and metrics."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints, overload

import torch
from PIL import Image
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.context import Framing
from semblant.backbones.loading import load as load
from semblant.backbones.patch import Patch
from semblant.backbones.pipeline import lend
from semblant.backbones.prompt import placeholder
from semblant.data.pictures import to_image
from semblant.data.subject import Subject
from semblant.errors import SemblantError, closest, out_of_memory
from semblant.methods.index import method_class, methods, name_of
from semblant.methods.method import Method
from semblant.metrics.report import Scores
from semblant.metrics.report import measure as measure_images
from semblant.sampling.loop import Branches, noise, sample_latents
from semblant.training.concepts import Concept, require_base
from semblant.training.learner import Learner
from semblant.training.optimise import Progress, optimise, stored_compute
from semblant.training.precision import choose, precision_name

logger = logging.getLogger(__name__)

SAMPLING: dict[str, Mapping[str, Any]] = {
    "embedded": {"steps": 25, "guidance": 4.0},
    "sdxl": {"steps": 50, "guidance": 5.0},
}
"""Sampling settings by architecture where they differ from Stable Diffusion's published 50 steps and guidance 7.5.
Those of XL are its pipeline's in diffusers."""
AT_ONCE = 8
"""Most pictures sampled in one batch; more take turns, so that memory stays bounded."""


def method(name: str, base: Base | None = None, **settings: Any) -> Method:
    """A method by its command name, with the base's preset and then `settings` over the paper's values.

    Raises SemblantError for an unknown method or setting, naming the closest ones, and for a value of a wrong kind.
    """
    kind = method_class(name)
    preset = kind.presets.get(base.architecture, {}) if base is not None else {}
    return _build(kind, {**preset, **_known(kind, settings)})


def _known(kind: type[Method], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    names = [f.name for f in dataclasses.fields(kind)]
    for given in settings:
        if given not in names:
            raise SemblantError(f"{name_of(kind)} has no setting {given!r}; did you mean {closest(given, names)}?")
    return settings


def _build(kind: type[Method], settings: Mapping[str, Any]) -> Method:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    declared = get_type_hints(kind)
    values = {}
    for key, value in settings.items():
        choices = get_args(declared[key]) if get_origin(declared[key]) is Literal else ()
        if choices and value not in choices:
            raise SemblantError(f"the setting {key} is one of {', '.join(map(str, choices))}; got {value!r}")
        values[key] = _as_declared(key, value, fields[key].default)
    return kind(**values)


def _as_declared(name: str, value: Any, default: Any) -> Any:
    """A setting's value in the type of its default; text from a command line and lists from JSON are converted."""
    try:
        if isinstance(default, bool):
            if isinstance(value, str):
                return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]
            return bool(value)
        if isinstance(default, tuple):
            parts = value.split(",") if isinstance(value, str) else value
            like = default[0] if default else ""
            return tuple(_as_declared(name, part, like) for part in parts)
        if isinstance(default, int):
            if float(value) != int(float(value)):
                raise ValueError
            return int(float(value))
        if isinstance(default, float):
            return float(value)
        return value
    except (ValueError, TypeError, KeyError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(default), "a list")
        raise SemblantError(f"the setting {name} is {kind} (its default is {default}); got {value!r}") from None


@overload
def fit(name: str | Method, base: Base, subject: Subject, **given: Any) -> Concept: ...
@overload
def fit(name: str | Method, base: Base, subject: Sequence[Subject], **given: Any) -> list[Concept]: ...
def fit(
    name: str | Method,
    base: Base,
    subject: Subject | Sequence[Subject],
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    every: int = 100,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    compute: torch.dtype | None = torch.float32,
    keep_every: int | None = None,
    keep: Callable[[Concept], object] | None = None,
    **settings: Any,
) -> Concept | list[Concept]:
    """Teach the base one subject, or several at once.

    `settings` are the method's fields. `compute` None measures which precision is fastest and takes it; a resumed
    run keeps what it began with. `keep` hears what is learned so far after every `keep_every` steps and at the end.
    With the setting `early_stop` it may take fewer than `steps`; the concept's figures then say why it `stopped`.
    `checkpoint` is a folder for the state of the run, written every `every` steps; with `resume` the run goes on there.

    Several subjects, each with a word of its own, learn in one batch what each would learn alone from the same seed, up
    to rounding; the answer is their concepts in order, and one checkpoint holds all. `progress` numbers them in order.

    Raises SemblantError for unknown methods and settings, a type that nothing computes in, when the run that is resumed
    was given something else, for several subjects with one word, and for several where the method changes weights;
    Interrupted when stopped.
    """
    if keep_every is not None and keep_every < 1:
        raise SemblantError(f"keeping every {keep_every} steps cannot be; give 1 or more")
    if compute is not None:
        base.computing(compute)  # another type is refused before anything is learned
    chosen = name if isinstance(name, Method) else method(name, base, **settings)
    if not isinstance(name, str) and settings:
        own = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen)}
        chosen = _build(type(chosen), {**own, **_known(type(chosen), settings)})
    subjects = [subject] if isinstance(subject, Subject) else list(subject)
    require_apart(chosen, [one.word for one in subjects])
    settling = chosen.settling()
    learners = []
    for one in subjects:
        learners.append(chosen.learner(base, one, torch.Generator().manual_seed(seed)))
        base.settle()
    if settling is not None and settling.earliest >= (planned := learners[0].steps):
        logger.warning(
            "no run of %d steps can stop early, since with stop_window=%d the first step to stop at is %d; "
            "give more steps or a smaller stop_window",
            planned,
            settling.window,
            settling.earliest,
        )
    if checkpoint is not None and resume and (kept := stored_compute(checkpoint)) is not None:
        if compute not in (None, kept):
            logger.warning("the run began in %s and goes on in it, not in %s", kept, compute)
        compute = kept
    compute = compute or choose(base)
    given = [_told(one) for one in subjects]
    fingerprint = {
        "method": name_of(chosen),
        "settings": dataclasses.asdict(chosen),
        "base": base.hashes(),
        **(given[0] if len(given) == 1 else {"subjects": {str(number): told for number, told in enumerate(given, 1)}}),
    }

    def learned(index: int, steps: int, losses: dict[str, float], figures: Mapping[str, Any]) -> Concept:
        figures = {**figures, "compute": precision_name(compute)}
        return _concept(chosen, base, subjects[index], learners[index], seed, steps, losses, figures)

    def after_step(now: Progress) -> None:
        # The end is kept with everything that is known only then.
        if keep is not None and keep_every is not None and now.step % keep_every == 0 and now.step < now.steps:
            for index, loss in zip(now.learners, now.losses, strict=True):
                keep(learned(index, now.step, {"last": loss}, now.figures_of(index)))
        if progress is not None:
            progress(now)

    histories = optimise(
        base,
        learners,
        seeds=[seed] * len(learners),
        checkpoint=checkpoint,
        every=every,
        resume=resume,
        progress=after_step if keep is not None else progress,
        stop=stop,
        compute=compute,
        fingerprint=fingerprint,
        settling=settling,
    )
    concepts = []
    for index, history in enumerate(histories):
        taken, planned = len(history.losses), learners[index].steps
        losses = {"first": _mean(history.losses[:50]), "last": _mean(history.losses[-50:])}
        figures = {
            **history.figures,
            "seconds": round(history.seconds, 2),
            "peak_memory": history.peak_memory,
            **({"skipped updates": history.skipped} if history.skipped else {}),
            **({"stopped": f"at step {taken} of {planned}: {history.stopped}"} if history.stopped else {}),
        }
        concepts.append(learned(index, taken, losses, figures))
        if keep is not None:
            keep(concepts[-1])
    return concepts[0] if isinstance(subject, Subject) else concepts


def require_apart(chosen: Method, words: Sequence[str]) -> None:
    """Raise SemblantError unless subjects of these words can be learned in one run: one always, several in one batch
    under a word each."""
    if not words:
        raise SemblantError("there is no subject to learn; give at least one")
    for word in words:
        if words.count(word) > 1:
            raise SemblantError(f"two subjects are called {word}; give each a word of its own")
    if len(words) > 1 and not chosen.shares_base:
        able = ", ".join(name for name, kind in methods().items() if kind.shares_base)
        raise SemblantError(
            f"{name_of(chosen)} changes the base for a whole batch, so several subjects cannot share one; "
            f"learn them one by one, or by a method that leaves the base as it is: {able}"
        )


def _told(subject: Subject) -> dict[str, Any]:
    """What of a subject decides what is learned."""
    return {
        "word": subject.word,
        "class_word": subject.class_word,
        "pictures": list(subject.sources),
        "crops and masks": subject.pixels,
        **({"captions": list(subject.captions)} if any(subject.captions) else {}),
    }


def _concept(
    chosen: Method,
    base: Base,
    subject: Subject,
    learner: Learner,
    seed: int,
    steps: int,
    losses: dict[str, float],
    figures: dict[str, Any],
) -> Concept:
    """What a learner knows of a subject by now."""
    return Concept(
        method=name_of(chosen),
        settings=dataclasses.asdict(chosen),
        word=subject.word,
        class_word=subject.class_word,
        base=base.describe(),
        tensors={key: value.detach().float().cpu().clone().contiguous() for key, value in learner.tensors().items()},
        stages=getattr(learner, "stages", None),
        seed=seed,
        steps=steps,
        losses=losses,
        pictures=tuple(subject.sources),
        consent=subject.consent,
        figures=figures,
    )


def patches_of(base: Base, concepts: Sequence[Concept]) -> list[Patch]:
    """What concepts attach to a base. Raises SemblantError when two share a word, or one belongs to another base."""
    words = [concept.word for concept in concepts]
    for word in words:
        if words.count(word) > 1:
            raise SemblantError(f"two concepts are called {word}; give one of them another name (`--as <name>`)")
    patches: list[Patch] = []
    for concept in concepts:
        require_base(concept, base)
        kind = method_class(concept.method)
        known = {f.name for f in dataclasses.fields(kind)}
        settings = {key: value for key, value in concept.settings.items() if key in known}
        patches += _build(kind, settings).concept_patches(base, concept)
    return patches


@torch.no_grad()
def sample(
    base: Base,
    prompt: str | Sequence[str],
    *,
    concepts: Sequence[Concept] = (),
    patches: Iterable[Patch] = (),
    negative: str = "",
    n: int = 1,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    solver: str = "ddim",
    size: int | tuple[int, int] | None = None,
    framing: Framing | None = None,
    progress: Callable[[int, int, Tensor], None] | None = None,
) -> list[Image.Image]:
    """Make `n` pictures of a prompt (or of each of several), with concepts and further patches attached.

    Picture k of a prompt starts from seed `seed + k`, whatever else is made with it. `size` is (height, width) in
    pixels, or the side of a square. Bases of XL are told by `framing` how such a picture came to its size; without it,
    that it is whole and always had it. When memory runs out, fewer are made at once. Raises SemblantError for a concept
    whose word no prompt holds, for sizes or steps that cannot be, and for a framing that the base is not told.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise SemblantError("there is no prompt to make a picture of; give at least one")
    if n < 1:
        raise SemblantError(f"n is how many pictures to make, 1 or more; got {n}")
    pattern = placeholder([concept.word for concept in concepts])
    named = {word for text in prompts for word in pattern.findall(text)}
    for concept in concepts:
        if concept.word not in named:
            raise SemblantError(
                f"the concept {concept.word} ({concept.class_word}) is not in the prompt {prompts[0]!r}; "
                f"write {concept.word} where it should appear"
            )
    preset = SAMPLING.get(base.architecture, {"steps": 50, "guidance": 7.5})
    size = base.size if size is None else size
    height, width = (size, size) if isinstance(size, int) else size
    grain = base.factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    if height < grain or width < grain or height % grain or width % grain:
        raise SemblantError(
            f"height and width must be multiples of {grain} pixels for {base.name}; got {height}x{width}"
        )
    if framing is not None and not base.told_sizes:
        raise SemblantError(f"only bases of Stable Diffusion XL are told of sizes and crops; {base.name} is not")
    extra = list(patches)
    view = base.patched(*patches_of(base, concepts), *extra)
    wanted = [(text, seed + k) for text in prompts for k in range(n)]
    at_once = min(AT_ONCE, len(wanted))

    def made(some: Sequence[tuple[str, int]]) -> list[Image.Image]:
        context = view.text([text for text, _ in some])
        latents = sample_latents(
            view,
            noise(base, [s for _, s in some], (height, width)),
            Branches.of(context if framing is None else context.framed(framing), view.text(negative)),
            steps=preset["steps"] if steps is None else steps,
            guidance=preset["guidance"] if guidance is None else guidance,
            solve=solver,
            progress=progress,
        )
        pictures = view.decode(latents)
        if not bool(torch.isfinite(pictures).all()):
            raise SemblantError(
                "the pictures are no numbers: a concept's strength, a prompt weight or the guidance is too large"
            )
        return [to_image(picture) for picture in pictures]

    images: list[Image.Image] = []
    while len(images) < len(wanted):
        try:
            images += made(wanted[len(images) : len(images) + at_once])
        except (MemoryError, RuntimeError) as problem:
            # Other patches may know how many rows there are.
            if at_once == 1 or extra or not out_of_memory(problem):
                raise
            at_once //= 2
            logger.warning("there is not enough memory for more; making %d at a time", at_once)
    return images


def measure(
    images: Sequence[Image.Image],
    *,
    subject: Subject | Sequence[Image.Image] | None = None,
    prompt: str | Sequence[str] = "",
    trained_on: Sequence[Image.Image] | None = None,
) -> Scores:
    """Measure pictures with the judges that no method may use: see `semblant.metrics.report`."""
    references = subject.images if isinstance(subject, Subject) else subject
    return measure_images(
        list(images), subject=list(references) if references else None, prompt=prompt, trained_on=trained_on
    )


def apply_to(concepts: Concept | Sequence[Concept], pipeline: Any) -> Callable[[], None]:
    """Teach a diffusers Stable Diffusion pipeline the words of concepts; its own loop and scheduler go on as they are.

    Words taught before stay; of words of one name the last holds. Returns a function that takes these words off again,
    in whichever order. Also bound as `Concept.apply_to(pipeline)`.
    """
    base = Base.wrap(pipeline)
    listed = [concepts] if isinstance(concepts, Concept) else list(concepts)
    return lend(pipeline, base.patched(*patches_of(base, listed)))


Concept.apply_to = apply_to  # type: ignore[attr-defined]


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else float("nan")


__all__ = ["apply_to", "fit", "load", "measure", "method", "patches_of", "require_apart", "sample"]
