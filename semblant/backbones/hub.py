"""Bases by their name on the Hugging Face hub: only what a base is made of is fetched, into the hub's own cache."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from semblant.errors import FileProblem

logger = logging.getLogger(__name__)
NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    "tokenizer_2/*.json",
    "tokenizer_2/merges.txt",
)
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
INDEX = "safetensors.index*.json"


def is_name(source: str) -> bool:
    """Whether `source` has the form `owner/name` or `owner/name@revision`."""
    return NAME.fullmatch(source) is not None


def snapshot(source: str, offline: bool = False, weights: bool = True) -> Path:
    """The folder of a hub's base in the local cache; what is missing is downloaded first, unless `offline`.

    Without `weights` only configurations and the tokenizer are fetched. The hub's client itself heeds HF_HUB_OFFLINE.
    Of weights in several precisions the full one is taken. Raises FileProblem when there is no such base.
    """
    found = NAME.fullmatch(source)
    if found is None:
        raise FileProblem(f"{source!r} is no name on the hub; write owner/name or owner/name@revision")
    whole = [f"{part}/*{ending}" for part in WEIGHTED for ending in (".safetensors", INDEX)] if weights else []
    if weights and not offline and not _known(found[1], found[2]):
        logger.warning("%s is fetched from the Hugging Face hub now: some gigabytes, once", source)
    # A variant (`*.fp16.safetensors`) would double what is fetched, and is looked for where there is nothing else.
    folder = _fetch(source, found[1], found[2], [*CONFIGS, *whole], ["*.fp16*", "*.bf16*", "*non_ema*"], offline)
    # Only some bases have a second text encoder, and those have a folder for it by now.
    parts = [part for part in WEIGHTED if part != "text_encoder_2" or (folder / part).is_dir()]
    lacking = [part for part in parts if weights and not any((folder / part).glob("*.safetensors"))]
    if lacking:
        half = [f"{part}/*.fp16*{ending}" for part in lacking for ending in ("safetensors", ".json")]
        folder = _fetch(source, found[1], found[2], [*half, *(f"{part}/{INDEX}" for part in lacking)], [], offline)
    return folder


def _known(name: str, revision: str | None) -> bool:
    """Whether the cache holds a base already, or the hub may not be asked anyway."""
    cached = huggingface_hub.try_to_load_from_cache(name, CONFIGS[0], revision=revision)
    return isinstance(cached, str) or bool(huggingface_hub.constants.HF_HUB_OFFLINE)


def _fetch(source: str, name: str, revision: str | None, allow: list[str], ignore: list[str], offline: bool) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=allow, ignore_patterns=ignore, local_files_only=offline
            )
        )
    except GatedRepoError as problem:
        raise FileProblem(
            f"{source} is behind a licence that has to be accepted first: do so on huggingface.co, "
            "then log in here with `hf auth login`"
        ) from problem
    except RevisionNotFoundError as problem:
        raise FileProblem(
            f"{name} has no revision {revision} on the hub; leave @{revision} out for its main one"
        ) from problem
    except RepositoryNotFoundError as problem:
        raise FileProblem(
            f"there is no folder {source} here and no base of that name on the hub; "
            "check the spelling, or log in with `hf auth login` if it is private"
        ) from problem
    except LocalEntryNotFoundError as problem:
        # Another program may have cached one precision only; what is lacking then, reading the folder says.
        if allow != [CONFIGS[0]]:
            return _fetch(source, name, revision, [CONFIGS[0]], [], offline=True)
        raise FileProblem(
            f"there is no folder {source} here, and no whole base of that name in the hub's cache, and the hub "
            "is out of reach; load it once with a connection and without --offline or HF_HUB_OFFLINE"
        ) from problem
    except HFValidationError as problem:
        raise FileProblem(f"{source!r} is no name on the hub; write owner/name or owner/name@revision") from problem
    except (HfHubHTTPError, OSError) as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise FileProblem(
            f"{source} cannot be fetched from the hub: {said}; --offline uses what is cached"
        ) from problem
