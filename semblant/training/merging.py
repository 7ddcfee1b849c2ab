"""Bringing what several subjects changed in the weights that read the text into one set of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.errors import SemblantError
from semblant.ops.merging import constrained_least_squares
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord


@torch.no_grad()
def merged_offsets(
    base: Base,
    words: Sequence[LearnedWord],
    changes: Sequence[Offsets],
    captions: Sequence[str],
    templates: Sequence[str],
) -> Offsets:
    """One change of key and value matrices in place of one per word (Custom Diffusion, arXiv 2212.04488).

    Under `templates` each word, and what follows it, is read exactly as its own change reads it; what is read of
    `captions` moves as little as possible. Raises SemblantError when the changes are of unlike weights, or of some that
    read no text, and without words or captions.
    """
    if not (words and captions):
        raise SemblantError(
            f"merging needs concepts, and captions of what is to be kept; got {len(words)} and {len(captions)}"
        )
    names = changes[0].offsets.keys()
    if any(change.offsets.keys() != names for change in changes):
        raise SemblantError("merging needs changes of the same weights; fit the concepts with equal targets")
    reading = {f"unet.{site.name}.{part}.weight" for site in base.cross_sites() for part in ("to_k", "to_v")}
    if other := [name for name in names if name not in reading]:
        raise SemblantError(
            f"only what reads the text can be merged, and {other[0]} does not; "
            "fit the concepts with targets to_k and to_v"
        )
    plain = base.text(list(captions))
    # What every prompt starts with is not compared; the end token, which sums a prompt up, is.
    kept = torch.cat([e[1 : row.end + 1] for e, row in zip(base.encodings(plain), plain.rows, strict=True)])
    read = [_read(base, word, templates) for word in words]
    named, solved = dict(base.named_parameters()), {}
    for name in names:
        weight = named[name].to(base.device)
        wanted = [x @ change.delta(name, weight).T for x, change in zip(read, changes, strict=True)]
        solved[name] = constrained_least_squares(weight, kept, torch.cat(read), torch.cat(wanted)) - weight
    return Offsets(solved)


def _read(base: Base, word: LearnedWord, templates: Sequence[str]) -> Float[Tensor, "places dim"]:
    """Encodings of a word, and of what follows it up to the end token: what stands before it says nothing of it."""
    view = base.patched(word)
    context = view.text([template.replace("{}", word.word) for template in templates])
    encoded = zip(view.encodings(context), context.rows, strict=True)
    return torch.cat([e[row.positions[word.word][0] : row.end + 1] for e, row in encoded])
