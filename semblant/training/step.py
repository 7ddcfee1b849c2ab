"""One step of training: the rows of all learners in one batch, through the base, to losses and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.context import Context, Encoded
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, Patch, TrajectoryPatch, WordsPatch
from semblant.errors import SemblantError, out_of_memory
from semblant.patches.narrow import Narrowed
from semblant.training.learner import Batch, Example, Learner
from semblant.training.thrift import NotEnoughMemory

Plain = dict[str, Encoded]
"""Prompts without words, tokenised, with their encodings; kept from step to step."""
KEPT = 64
"""How many of them are kept: at most some 15 MB for a text encoder of Stable Diffusion."""
Part = list[tuple[int, list[int]]]
"""Rows of one pass: the index of a learner, and which of its rows."""


@dataclass(frozen=True)
class Drawn:
    """What the learners of a step drew, one entry for each."""

    labels: Sequence[int]
    patches: Sequence[Sequence[Patch]]
    batches: Sequence[Batch]

    @property
    def whole(self) -> Part:
        """All rows of all learners."""
        return [(index, list(range(len(batch.x)))) for index, batch in enumerate(self.batches)]


def gradients(
    base: Base,
    learners: Sequence[Learner],
    generators: Sequence[torch.Generator],
    *,
    labels: Sequence[int] | None = None,
    plain: Plain | None = None,
    most: int | None = None,
    scale: float = 1.0,
) -> tuple[list[float], list[list[Tensor | None]]]:
    """Loss of each learner on rows drawn from its generator, and the gradients of its parameters (None: unused).

    The loss of a learner is the mean over its own rows; the sum over learners is differentiated once. Rows do not mix
    in the base, so each learner's gradient is what it would be alone, and with `most` rows in one pass the sum over
    passes is what one pass gives. What is differentiated is `scale` times the loss, for types in which small gradients
    vanish (see `training.scale`). Raises SemblantError when no parameter matters, NotEnoughMemory when a pass does not
    fit.
    """
    largest = 1
    try:
        drawn = draw(base, learners, generators, labels=labels, plain=plain)
        parts = passes(drawn.whole, most)
        largest = max(sum(len(rows) for _, rows in part) for part in parts)
        return _summed(base, learners, drawn, parts, scale)
    except (MemoryError, RuntimeError) as problem:
        if not out_of_memory(problem):
            raise
    # Outside the block, where nothing holds what the failed pass had in memory.
    raise NotEnoughMemory(largest)


def _summed(
    base: Base, learners: Sequence[Learner], drawn: Drawn, parts: Sequence[Part], scale: float
) -> tuple[list[float], list[list[Tensor | None]]]:
    """Losses and gradients summed over the passes."""
    parameters = [list(learner.parameters.values()) for learner in learners]
    flat = [p for own in parameters for p in own]
    losses = [0.0] * len(learners)
    sums: list[Tensor | None] = [None] * len(flat)
    matters = False
    for number, part in enumerate(parts, 1):
        scores = []
        for (index, _), given in zip(part, denoised(base, drawn, part), strict=True):
            scores.append(score(learners[index], *given, of=len(drawn.batches[index].x)))
            losses[index] += float(scores[-1].detach())
        total = torch.stack(scores).sum()
        if not total.requires_grad:
            # Class pictures alone may depend on nothing that is learned.
            continue
        matters = True
        found = torch.autograd.grad(total * scale, flat, allow_unused=True, retain_graph=number < len(parts))
        sums = [new if old is None else old if new is None else old + new for old, new in zip(sums, found, strict=True)]
    if not matters:
        names = ", ".join(type(learner).__name__ for learner in learners)
        raise SemblantError(f"the loss of {names} does not depend on its parameters; does the prompt hold its word?")
    each = iter(sums if scale == 1 else [None if own is None else own / scale for own in sums])
    return losses, [[next(each) for _ in own] for own in parameters]


def score(learner: Learner, moment: Moment, prediction: Tensor, batch: Batch, of: int) -> Tensor:
    """What these rows add to the mean over `of` rows."""
    per_row = learner.loss(moment, prediction, batch)
    if per_row.shape != batch.weight.shape:
        raise ValueError(
            f"{type(learner).__name__}.loss answers one number per row, {tuple(batch.weight.shape)}; "
            f"got {tuple(per_row.shape)}"
        )
    weighted = per_row * batch.weight
    return weighted.mean() if len(weighted) == of else weighted.sum() / of


def forward(
    base: Base,
    learners: Sequence[Learner],
    generators: Sequence[torch.Generator],
    *,
    labels: Sequence[int] | None = None,
    plain: Plain | None = None,
) -> list[tuple[Moment, Tensor, Batch]]:
    """Rows drawn by each learner, denoised in one call of the base: what each learner's loss is given.

    `labels` number the learners (0, 1, ... unless given). Raises SemblantError when latents differ in size.
    """
    drawn = draw(base, learners, generators, labels=labels, plain=plain)
    return denoised(base, drawn, drawn.whole)


def draw(
    base: Base,
    learners: Sequence[Learner],
    generators: Sequence[torch.Generator],
    *,
    labels: Sequence[int] | None = None,
    plain: Plain | None = None,
) -> Drawn:
    """The rows of a step and what is attached for them. Raises SemblantError when latents differ in size."""
    patches: list[list[Patch]] = []
    batches: list[Batch] = []
    for learner, generator in zip(learners, generators, strict=True):
        learner.begin(generator)
        examples = learner.draw(generator)
        patches.append([p for p in learner.patches() if not isinstance(p, TrajectoryPatch)])
        batches.append(_batch(base, learner, generator, patches[-1], examples, plain))
    if len({batch.latent.shape[1:] for batch in batches}) > 1:
        shapes = ", ".join(str(tuple(batch.latent.shape[1:])) for batch in batches)
        raise SemblantError(f"learners that train together need latents of one size; got {shapes}")
    return Drawn(range(len(learners)) if labels is None else labels, patches, batches)


def denoised(base: Base, drawn: Drawn, part: Part) -> list[tuple[Moment, Tensor, Batch]]:
    """The rows of a part in one call of the base: what the loss of each of its learners is given."""
    batches = [drawn.batches[index].only(own) for index, own in part]
    patches = [_only(drawn.patches[index], own, len(drawn.batches[index].x)) for index, own in part]
    labels = [drawn.labels[index] for index, _ in part]
    x = torch.cat([batch.x for batch in batches])
    rows: list[list[int]] = []
    for batch in batches:
        start = rows[-1][-1] + 1 if rows else 0
        rows.append(list(range(start, start + len(batch.x))))
    whose = [label for label, own in zip(labels, rows, strict=True) for _ in own]
    moment = Moment.of(torch.cat([batch.timestep for batch in batches]), learner=whose)
    moment = replace(moment, size=(x.shape[-2], x.shape[-1]))
    context = sum((batch.context for batch in batches[1:]), batches[0].context)
    if len(part) == 1:
        return [(moment, base.patched(*patches[0]).denoise(x, moment, context), batches[0])]
    scopes = [f"learner {label}" for label in labels]
    prediction = base.patched(*_narrowed(patches, rows, scopes)).denoise(x, moment, context)
    return [
        (moment.only(own, scope), prediction[own[0] : own[-1] + 1], batch)
        for own, scope, batch in zip(rows, scopes, batches, strict=True)
    ]


def passes(whole: Part, most: int | None) -> list[Part]:
    """The rows in order, cut into passes of at most `most`."""
    if most is None:
        return [whole]
    rows = [(index, row) for index, own in whole for row in own]
    parts = []
    for start in range(0, len(rows), most):
        part: dict[int, list[int]] = {}
        for index, row in rows[start : start + most]:
            part.setdefault(index, []).append(row)
        parts.append(list(part.items()))
    return parts


def _only(patches: Sequence[Patch], rows: list[int], of: int) -> list[Patch]:
    return list(patches) if len(rows) == of else [patch.only(rows) for patch in patches]


def _batch(
    base: Base,
    learner: Learner,
    generator: torch.Generator,
    patches: Sequence[Patch],
    examples: Sequence[Example],
    plain: Plain | None,
) -> Batch:
    """A learner's rows: its examples, noised, with their prompts read through its words."""
    device = base.device
    latent = torch.stack([example.latent for example in examples]).to(device)
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    timestep = learner.timesteps(generator, len(examples), base.schedule.timesteps).to(device)
    mask = None
    if any(example.mask is not None for example in examples):
        ones = latent.new_ones(1, *latent.shape[2:])
        mask = torch.stack([ones if e.mask is None else e.mask.to(latent) for e in examples])
    return Batch(
        latent,
        noise,
        base.schedule.noised(latent, noise, timestep),
        timestep,
        mask,
        _context(base, patches, examples, plain),
        torch.tensor([example.weight for example in examples], device=device),
    )


def _context(base: Base, patches: Sequence[Patch], examples: Sequence[Example], plain: Plain | None) -> Context:
    """The prompts, equal ones tokenised and encoded once."""
    words = [patch for patch in patches if isinstance(patch, WordsPatch)]
    worded = base.patched(*words)
    # Encodings without words last, unless weights of the text encoder may change.
    kept = None if base.patched(*patches).rewrites_text else plain
    own: dict[tuple[str, bool], Encoded] = {}
    for example in examples:
        key = (example.prompt, example.patched and bool(words))
        if key not in own:
            own[key] = worded.text(key[0]).rows[0] if key[1] else _plain(base, key[0], kept)
    rows = tuple(own[example.prompt, example.patched and bool(words)] for example in examples)
    framings = tuple(example.framing for example in examples)
    return Context(rows, framings if any(framings) else ())


def _plain(base: Base, prompt: str, kept: Plain | None) -> Encoded:
    """A prompt without the learner's words, from `kept` or encoded for it.

    It is encoded alone: in company its rounding would depend on the step at which it first occurs, and a resumed run
    would not repeat the run it resumes bit for bit.
    """
    if kept is not None and prompt in kept:
        return kept[prompt]
    context = base.text(prompt)
    if kept is not None and not context.rows[0].words:
        with torch.no_grad():
            base.encodings(context)
        if len(kept) >= KEPT:
            kept.clear()
        kept[prompt] = context.rows[0]
    return context.rows[0]


def _narrowed(patches: Sequence[Sequence[Patch]], rows: Sequence[list[int]], scopes: Sequence[str]) -> Iterable[Patch]:
    """The attention patches of several learners, each on its own rows. Words already are in the rows' prompts."""
    for given, own, scope in zip(patches, rows, scopes, strict=True):
        for patch in given:
            if isinstance(patch, AttentionPatch):
                yield Narrowed(patch, partial(_fixed, own), scope)


def _fixed(rows: list[int], moment: Moment) -> list[int]:
    return rows
