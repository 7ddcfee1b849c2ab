"""Files with the rows of one word: `{word: [n, dim]}`, `{emb_params: [n, dim]}`, for Stable Diffusion XL `{clip_l: [n,
768], clip_g: [n, 1280]}`, and pickles of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.errors import FileProblem
from semblant.training.concepts import XL_ROWS, embedding_of
from semblant.training.interchange.layers import listed, require_usable
from semblant.training.interchange.pickled import Names, Pickled

FORM, NAMELESS = "embedding", "emb_params"
"""Forms of file: with the word as the tensor's name, and with no word at all."""
_WEBUI = "string_to_param"
_BESIDE = ("string_to_token", "name", "step", "sd_checkpoint", "sd_checkpoint_name")
"""What a web UI's pickle says beside the rows: how they were made."""


class Rows(NamedTuple):
    """The rows of a word, those of several text encoders side by side, and the word where the file says it."""

    rows: Float[Tensor, "n dim"]
    word: str | None
    form: str
    widths: tuple[int, ...]
    """How wide the rows are in each text encoder."""


def read(tensors: Mapping[str, Tensor], file: str) -> Rows:
    """The rows of a safetensors file, in single precision.

    Raises FileProblem for more than one word, for half of Stable Diffusion XL's rows, and for tensors that are no rows.
    """
    if tensors.keys() & set(XL_ROWS):
        return _both(tensors, FORM, file)
    if len(tensors) != 1:
        raise FileProblem(
            f"{file} is no embedding of one word: it holds {len(tensors)} tensors, {listed(sorted(tensors))}"
        )
    [(name, tensor)] = tensors.items()
    rows = _rows(name, tensor, file)
    return _one(rows, None, NAMELESS) if name == NAMELESS else _one(rows, name, FORM)


def read_pickled(pickled: Pickled, file: str) -> tuple[Rows, list[str]]:
    """The rows of a pickle, `{word: [dim]}` or `{"string_to_param": {"*": [n, dim]}, ...}`, and what to say of it.

    Those for Stable Diffusion XL are `{"clip_l": [n, 768], "clip_g": [n, 1280]}`. Raises FileProblem for Custom
    Diffusion, and for entries that belong to no form.
    """
    entries = sorted([*pickled.tensors, *pickled.others])
    if any({"modifier_token", "unet"} & set(names[:1]) or "custom_diffusion" in "".join(names) for names in entries):
        raise FileProblem(f"{file} is a file of Custom Diffusion, and those are not supported yet")
    if any(names[:1] == (_WEBUI,) for names in entries):
        return _webui(pickled, entries, file)
    if not pickled.others and {names for names in entries} & {(name,) for name in XL_ROWS}:
        return _both({".".join(names): tensor for names, tensor in pickled.tensors.items()}, "pickle", file), []
    if len(entries) != 1 or len(pickled.tensors) != 1 or len(entries[0]) != 1:
        raise FileProblem(
            f"{file} is a pickle of {_shown(entries)}; of pickles only textual-inversion embeddings are converted, "
            f"which are one tensor called by its word, or {_WEBUI} with one tensor called *"
        )
    [(names, tensor)] = pickled.tensors.items()
    return _one(_rows(names[0], tensor, file), names[0], "pickle"), []


def write(rows: Float[Tensor, "n dim"], word: str | None, widths: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of an embedding file: called by the word, or with None as files without a word have it. Rows for two
    text encoders are called by these."""
    return embedding_of(rows, NAMELESS if word is None else word, widths)


def _one(rows: Float[Tensor, "n dim"], word: str | None, form: str) -> Rows:
    return Rows(rows, word, form, (int(rows.shape[1]),))


def _both(tensors: Mapping[str, Tensor], form: str, file: str) -> Rows:
    """Rows for both text encoders of Stable Diffusion XL."""
    if lacking := [name for name in XL_ROWS if name not in tensors]:
        raise FileProblem(
            f"{file} is half an embedding for Stable Diffusion XL: it lacks {lacking[0]}, the rows in its other text "
            "encoder"
        )
    if strange := sorted(tensors.keys() - set(XL_ROWS)):
        raise FileProblem(f"{file} is not converted, because nothing may be dropped: {listed(strange)} is unknown")
    parts = [_rows(name, tensors[name], file) for name in XL_ROWS]
    if len(parts[0]) != len(parts[1]):
        raise FileProblem(
            f"{file} has {len(parts[0])} rows in {XL_ROWS[0]} and {len(parts[1])} in {XL_ROWS[1]}, and a word takes as "
            "many places in both text encoders"
        )
    return Rows(torch.cat(parts, 1), None, form, tuple(int(part.shape[1]) for part in parts))


def _webui(pickled: Pickled, entries: list[Names], file: str) -> tuple[Rows, list[str]]:
    place = (_WEBUI, "*")
    if strange := [names for names in entries if names != place and names[0] not in _BESIDE]:
        raise FileProblem(f"{file} is not converted, because nothing may be dropped: {_shown(strange)} is unknown")
    if place not in pickled.tensors:
        raise FileProblem(f"{file} lacks {_WEBUI}.*, the tensor with its rows")
    left = sorted({names[0] for names in entries} - {_WEBUI})
    said = [f"{', '.join(left)} of {file} say how it was made and are left there"] if left else []
    return _one(_rows(f"{_WEBUI}.*", pickled.tensors[place], file), None, "pickle"), said


def _rows(name: str, tensor: Tensor, file: str) -> Float[Tensor, "n dim"]:
    require_usable(name, tensor, file)
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise FileProblem(f"{file} is no embedding: {name} has the shape {list(tensor.shape)}, and rows are [n, dim]")
    return tensor.float().reshape(-1, tensor.shape[-1])


def _shown(entries: list[Names]) -> str:
    return listed([".".join(names) or "one tensor" for names in entries]) or "nothing"
