"""Files with the rows of one word: `{word: [n, dim]}`, `{emb_params: [n, dim]}`, and two forms of pickles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from semblant.errors import FileProblem
from semblant.training.interchange.layers import listed, require_usable
from semblant.training.interchange.pickled import Names, Pickled

FORM, NAMELESS = "embedding", "emb_params"
"""Forms of file: with the word as the tensor's name, and with no word at all."""
_XL = ("clip_l", "clip_g")
_WEBUI = "string_to_param"
_BESIDE = ("string_to_token", "name", "step", "sd_checkpoint", "sd_checkpoint_name")
"""What a web UI's pickle says beside the rows: how they were made."""


class Rows(NamedTuple):
    """The rows of a word, and the word where the file says it."""

    rows: Float[Tensor, "n dim"]
    word: str | None
    form: str


def read(tensors: Mapping[str, Tensor], file: str) -> Rows:
    """The rows of a safetensors file, in single precision.

    Raises FileProblem for Stable Diffusion XL, for more than one tensor, and for one that is no rows.
    """
    _refuse_xl(tensors, file)
    if len(tensors) != 1:
        raise FileProblem(
            f"{file} is no embedding of one word: it holds {len(tensors)} tensors, {listed(sorted(tensors))}"
        )
    [(name, tensor)] = tensors.items()
    rows = _rows(name, tensor, file)
    return Rows(rows, None, NAMELESS) if name == NAMELESS else Rows(rows, name, FORM)


def read_pickled(pickled: Pickled, file: str) -> tuple[Rows, list[str]]:
    """The rows of a pickle, `{word: [dim]}` or `{"string_to_param": {"*": [n, dim]}, ...}`, and what to say of it.

    Raises FileProblem for Stable Diffusion XL, Custom Diffusion, and entries that belong to neither form.
    """
    entries = sorted([*pickled.tensors, *pickled.others])
    _refuse_xl((names[0] for names in entries if names), file)
    if any({"modifier_token", "unet"} & set(names[:1]) or "custom_diffusion" in "".join(names) for names in entries):
        raise FileProblem(f"{file} is a file of Custom Diffusion, and those are not supported yet")
    if any(names[:1] == (_WEBUI,) for names in entries):
        return _webui(pickled, entries, file)
    if len(entries) != 1 or len(pickled.tensors) != 1 or len(entries[0]) != 1:
        raise FileProblem(
            f"{file} is a pickle of {_shown(entries)}; of pickles only textual-inversion embeddings are converted, "
            f"which are one tensor called by its word, or {_WEBUI} with one tensor called *"
        )
    [(names, tensor)] = pickled.tensors.items()
    return Rows(_rows(names[0], tensor, file), names[0], "pickle"), []


def write(rows: Float[Tensor, "n dim"], word: str | None) -> dict[str, Tensor]:
    """The tensors of an embedding file: called by the word, or with None as files without a word have it."""
    return {NAMELESS if word is None else word: rows}


def _webui(pickled: Pickled, entries: list[Names], file: str) -> tuple[Rows, list[str]]:
    place = (_WEBUI, "*")
    if strange := [names for names in entries if names != place and names[0] not in _BESIDE]:
        raise FileProblem(f"{file} is not converted, because nothing may be dropped: {_shown(strange)} is unknown")
    if place not in pickled.tensors:
        raise FileProblem(f"{file} lacks {_WEBUI}.*, the tensor with its rows")
    left = sorted({names[0] for names in entries} - {_WEBUI})
    said = [f"{', '.join(left)} of {file} say how it was made and are left there"] if left else []
    return Rows(_rows(f"{_WEBUI}.*", pickled.tensors[place], file), None, "pickle"), said


def _refuse_xl(names: Iterable[str], file: str) -> None:
    if found := sorted(set(names) & set(_XL)):
        raise FileProblem(
            f"{file} is an embedding for Stable Diffusion XL ({' and '.join(found)}), and XL is not supported yet"
        )


def _rows(name: str, tensor: Tensor, file: str) -> Float[Tensor, "n dim"]:
    require_usable(name, tensor, file)
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise FileProblem(f"{file} is no embedding: {name} has the shape {list(tensor.shape)}, and rows are [n, dim]")
    return tensor.float().reshape(-1, tensor.shape[-1])


def _shown(entries: list[Names]) -> str:
    return listed([".".join(names) or "one tensor" for names in entries]) or "nothing"
