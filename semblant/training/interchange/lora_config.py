"""PEFT's account of a LoRA: ranks and alphas of layers by pattern. PEFT's folders and diffusers' files carry it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from semblant.errors import FileProblem
from semblant.training.interchange.layers import Layer, listed, same, usual
from semblant.training.interchange.places import TEXT_MODEL

_READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type"}
_ABOUT_TRAINING = frozenset(
    "target_modules exclude_modules lora_dropout inference_mode task_type base_model_name_or_path revision "
    "auto_mapping peft_version megatron_core layers_to_transform layers_pattern eva_config qalora_group_size".split()
)
"""Entries that say where and how it was learned, which the tensors show or which no longer matters."""
_STARTS = (None, True, False, "gaussian", "eva")
"""Values of `init_lora_weights` that left the base as it was; others (PiSSA, OLoRA, LoftQ) moved its weights too."""
_NOTHING: tuple[Any, ...] = (None, False, "none", "", [], {})
"""Values of an entry that asks for nothing, whatever it is called."""
_PLAIN = re.compile(r"\^?[\w.]+")


def read(config: Mapping[str, Any], ranks: Mapping[str, int], file: str) -> dict[str, float]:
    """Alpha of every place, such that alpha / rank is the change's strength. `ranks` are those of the tensors.

    Raises FileProblem for an entry that would change the result and is not known here, for one that is missing or of a
    wrong kind, and for a rank that is not the tensors'.
    """
    known = _READ | _ABOUT_TRAINING
    if config.get("init_lora_weights") in _STARTS:
        known = known | {"init_lora_weights"}
    if strange := sorted(key for key, value in config.items() if key not in known and value not in _NOTHING):
        raise FileProblem(
            f"{file} is not converted: its LoRA configuration asks for {listed(strange)} "
            f"({strange[0]} = {config[strange[0]]!r}), which has no place in a concept"
        )
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise FileProblem(f"{file} holds {kind!r} of PEFT, and of its kinds only LORA is converted")
    if lacking := [key for key in ("r", "lora_alpha") if not _is_number(config.get(key))]:
        raise FileProblem(f"{file} has a LoRA configuration without {' and '.join(lacking)} (a number)")
    patterns = {key: _patterns(config.get(key) or {}, key, file) for key in ("rank_pattern", "alpha_pattern")}
    found = {}
    for place, rank in ranks.items():
        said = _matching(patterns["rank_pattern"], place, config["r"])
        if said != rank:
            raise FileProblem(f"{file} gives {place} the rank {said:g} in its configuration and {rank} in its tensors")
        alpha = float(_matching(patterns["alpha_pattern"], place, config["lora_alpha"]))
        found[place] = alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
    return found


def write(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """The configuration of one network's layers, as PEFT's `LoraConfig` takes it."""
    ranks = {_name(place): layer.rank for place, layer in layers.items()}
    alphas = {_name(place): layer.alpha for place, layer in layers.items()}
    rank, alpha = int(usual(ranks.values())), usual(alphas.values())
    return {
        "r": rank,
        "lora_alpha": alpha,
        # Ends of names match too, so that they fit with `text_model.` before them and without.
        "target_modules": sorted(ranks),
        "rank_pattern": {name: other for name, other in sorted(ranks.items()) if other != rank},
        "alpha_pattern": {name: other for name, other in sorted(alphas.items()) if not same(other, alpha)},
    }


def _name(place: str) -> str:
    return place.partition(".")[2]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _patterns(given: Any, key: str, file: str) -> dict[str, float]:
    """Patterns that are names or ends of names. PEFT would take any regular expression; a foreign one is not run."""
    if not isinstance(given, Mapping) or not all(_is_number(value) for value in given.values()):
        raise FileProblem(f"{file} has a LoRA configuration whose {key} is no table of numbers")
    plain = {pattern.replace("\\.", "."): value for pattern, value in given.items()}
    if strange := [pattern for pattern in plain if not _PLAIN.fullmatch(pattern)]:
        raise FileProblem(
            f"{file} has the pattern {strange[0]!r} in {key}, which is no name of a layer; only names are followed"
        )
    return plain


def _matching(patterns: Mapping[str, float], place: str, otherwise: float) -> float:
    """The value of the first pattern that is the layer's name, or its end after a dot when no ^ stands before it."""
    network, _, name = place.partition(".")
    names = (name,) if network == "unet" else (name, TEXT_MODEL + name)
    for pattern, value in patterns.items():
        whole = pattern.removeprefix("^")
        if whole in names or (whole == pattern and names[-1].endswith(f".{pattern}")):
            return value
    return otherwise
