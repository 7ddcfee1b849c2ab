"""Settings of methods as their dataclasses declare them: names, kinds, defaults, and the sentence under each field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

from semblant.errors import SemblantError, closest
from semblant.methods.index import name_of
from semblant.methods.method import Method


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a method."""

    name: str
    kind: str
    """What may be given, in words."""
    default: Any
    source: str
    """What it does and where its value comes from: the docstring under the field."""
    choices: tuple[str, ...] = ()
    presets: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Values that replace the default on a kind of base, by its architecture."""


KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def settings(kind: type[Method]) -> list[Setting]:
    """Every setting of a method, in the order of its fields; those that many methods have come last."""
    sentences, hints = _sentences(kind), get_type_hints(kind)
    found = []
    interfaces = [ancestor for ancestor in kind.__bases__ if dataclasses.is_dataclass(ancestor)]
    shared = {field.name for ancestor in interfaces for field in dataclasses.fields(ancestor)}
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name in shared):
        presets = {base: preset[field.name] for base, preset in kind.presets.items() if field.name in preset}
        hint = hints[field.name]
        choices = tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else ()
        found.append(
            Setting(
                field.name, _in_words(hint, choices), field.default, sentences.get(field.name, ""), choices, presets
            )
        )
    return found


def given(kind: type[Method], pairs: Sequence[str]) -> dict[str, str]:
    """`name=value` pairs of a command line as a table.

    Raises SemblantError for a pair without "=", an unknown or repeated name, and a value that is none of its choices.
    """
    known = {setting.name: setting for setting in settings(kind)}
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SemblantError(f"--set takes name=value, such as --set {next(iter(known))}=...; got {pair!r}")
        if name not in known:
            raise SemblantError(
                f"{name_of(kind)} has no setting {name!r}; did you mean {closest(name, list(known))}? "
                f"`semblant show {name_of(kind)}` lists all"
            )
        if name in found:
            raise SemblantError(f"the setting {name} is given twice; give it once")
        choices = known[name].choices
        if choices and value.strip() not in choices:
            raise SemblantError(f"the setting {name} is one of {', '.join(choices)}; got {value!r}")
        found[name] = value.strip()
    return found


def shown(value: Any) -> str:
    """A value as `--set` takes it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(shown(part) for part in value)
    return str(value)


def _sentences(kind: type[Method]) -> dict[str, str]:
    """The string under each field, on one line. A class made without a source file has none."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(ancestor):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(ancestor)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body  # type: ignore[attr-defined]
        for field, after in pairwise(body):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            if named and isinstance(text, str):
                found[field.target.id] = " ".join(text.split())
    return found


def _in_words(hint: Any, choices: tuple[str, ...]) -> str:
    if choices:
        return " | ".join(choices)
    if get_origin(hint) is tuple:
        return ",".join(KINDS.get(part, "value") for part in get_args(hint) if part is not ...)
    return KINDS.get(hint, str(getattr(hint, "__name__", hint)))
