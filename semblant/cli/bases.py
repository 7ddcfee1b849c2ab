"""How every command names its base: `--base`, `--offline`, `--config`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from semblant.errors import SemblantError, closest

if TYPE_CHECKING:
    import torch

    from semblant.backbones.base import Base

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
BaseName = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="NAME",
        # The backslash keeps rich from taking the bracket for markup.
        help="`embedded`; a folder in diffusers' layout; owner/name\\[@revision] on the Hugging Face hub; "
        "or a .safetensors file (with --config).",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Download nothing: a base on the hub has to be in its cache already.")
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FOLDER",
        help="For a base in one .safetensors file: a folder in diffusers' layout, or owner/name on the hub, "
        "that has its tokenizer and scheduler.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="Where to compute: cpu, cuda or cuda:1 (NVIDIA), mps (Apple).")
]

Weights = Annotated[
    str,
    typer.Option(
        "--weights", metavar="TYPE", help="How weights are held: float32; or bfloat16 or float16, in half the memory."
    ),
]

Offloading = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="For a small GPU: text encoders, U-Net and autoencoder wait in ordinary memory, and are on the GPU only "
        "while they are needed.",
    ),
]


def read(
    base: str,
    offline: bool,
    config: str | None,
    device: str = "cpu",
    weights: str = "float32",
    offload: bool = False,
) -> Base:
    """Load the base that a command line names. Raises FileProblem when there is none, or it cannot be read,
    SemblantError for a device that is not there or that nothing is offloaded from, or another type of weights."""
    import torch

    from semblant import verbs
    from semblant.training import precision

    if weights not in PRECISIONS[1:]:
        raise SemblantError(f"no type {weights!r} to hold weights in; possible: {closest(weights, PRECISIONS[1:])}")
    dtype: torch.dtype = getattr(torch, weights)
    loaded = verbs.load(base, device, offline=offline, config=config, weights=dtype, offload=offload)
    if dtype != torch.float32 and precision.hopeless(dtype, loaded.device):
        logger.warning(
            "there is no arithmetic for %s here, so that everything takes many times as long; "
            "leave --weights out unless memory is short",
            weights,
        )
    return loaded


def precision_of(name: str) -> torch.dtype | None:
    """What a `--precision` stands for, None where it is to be measured. SemblantError for another word."""
    import torch

    if name not in PRECISIONS:
        raise SemblantError(f"no precision {name!r}; possible: {closest(name, PRECISIONS)}")
    return None if name == "auto" else getattr(torch, name)


def named(base: str, config: str | None) -> list[str]:
    """The options that name a base in another command; none for the embedded one, which needs no name."""
    return [*(["--base", base] if base != "embedded" else []), *(["--config", config] if config else [])]
