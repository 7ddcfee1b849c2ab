"""One step of training: the rows of all learners in one batch, through the base, to losses and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.context import Context, Encoded
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, Patch, TrajectoryPatch, WeightsPatch, WordsPatch
from semblant.errors import SemblantError
from semblant.patches.narrow import Narrowed
from semblant.training.learner import Batch, Example, Learner

Plain = dict[str, Encoded]
"""Prompts without words, tokenised, with their encodings; kept from step to step."""
KEPT = 64
"""How many of them are kept: at most some 15 MB for a text encoder of Stable Diffusion."""


def gradients(
    base: Base,
    learners: Sequence[Learner],
    generators: Sequence[torch.Generator],
    *,
    labels: Sequence[int] | None = None,
    plain: Plain | None = None,
) -> tuple[list[float], list[list[Tensor | None]]]:
    """Loss of each learner on rows drawn from its generator, and the gradients of its parameters (None: unused).

    The loss of a learner is the mean over its own rows; the sum over learners is differentiated once. Rows do not mix
    in the base, so each learner's gradient is what it would be alone. Raises SemblantError when no parameter matters.
    """
    losses = []
    for learner, (moment, prediction, batch) in zip(
        learners, forward(base, learners, generators, labels=labels, plain=plain), strict=True
    ):
        per_row = learner.loss(moment, prediction, batch)
        if per_row.shape != batch.weight.shape:
            raise ValueError(
                f"{type(learner).__name__}.loss answers one number per row, {tuple(batch.weight.shape)}; "
                f"got {tuple(per_row.shape)}"
            )
        losses.append((per_row * batch.weight).mean())
    total = torch.stack(losses).sum()
    parameters = [list(learner.parameters.values()) for learner in learners]
    if not total.requires_grad:
        names = ", ".join(type(learner).__name__ for learner in learners)
        raise SemblantError(f"the loss of {names} does not depend on its parameters; does the prompt hold its word?")
    found = iter(torch.autograd.grad(total, [p for own in parameters for p in own], allow_unused=True))
    return torch.stack(losses).detach().tolist(), [[next(found) for _ in own] for own in parameters]


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
    labels = range(len(learners)) if labels is None else labels
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
    x = torch.cat([batch.x for batch in batches])
    rows: list[list[int]] = []
    for batch in batches:
        start = rows[-1][-1] + 1 if rows else 0
        rows.append(list(range(start, start + len(batch.x))))
    whose = [label for label, own in zip(labels, rows, strict=True) for _ in own]
    moment = Moment.of(torch.cat([batch.timestep for batch in batches]), learner=whose)
    moment = replace(moment, size=(x.shape[-2], x.shape[-1]))
    context = Context(tuple(row for batch in batches for row in batch.context.rows))
    if len(learners) == 1:
        return [(moment, base.patched(*patches[0]).denoise(x, moment, context), batches[0])]
    scopes = [f"learner {label}" for label in labels]
    prediction = base.patched(*_narrowed(patches, rows, scopes)).denoise(x, moment, context)
    return [
        (moment.only(own, scope), prediction[own[0] : own[-1] + 1], batch)
        for own, scope, batch in zip(rows, scopes, batches, strict=True)
    ]


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
    kept = None if any(isinstance(patch, WeightsPatch) for patch in patches) else plain
    own: dict[tuple[str, bool], Encoded] = {}
    for example in examples:
        key = (example.prompt, example.patched and bool(words))
        if key not in own:
            own[key] = worded.text(key[0]).rows[0] if key[1] else _plain(base, key[0], kept)
    return Context(tuple(own[example.prompt, example.patched and bool(words)] for example in examples))


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
