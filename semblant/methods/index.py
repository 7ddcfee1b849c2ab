"""Every method by name, found by looking at the files of the families."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

import semblant.methods
from semblant.errors import SemblantError, closest
from semblant.methods.method import Method


@cache
def methods() -> dict[str, type[Method]]:
    """Command name -> method class, sorted by family and name."""
    found: dict[str, type[Method]] = {}
    for family in pkgutil.iter_modules(semblant.methods.__path__):
        if not family.ispkg:
            continue
        package = importlib.import_module(f"semblant.methods.{family.name}")
        for module in pkgutil.iter_modules(package.__path__):
            source = importlib.import_module(f"{package.__name__}.{module.name}")
            for member in vars(source).values():
                if inspect.isclass(member) and issubclass(member, Method) and member.__module__ == source.__name__:
                    found[module.name.replace("_", "-")] = member
    return found


def method_class(name: str) -> type[Method]:
    """A method by its command name. Raises SemblantError naming the closest ones."""
    table = methods()
    if name not in table:
        raise SemblantError(f"no method {name!r}; did you mean {closest(name, list(table))}? `semblant list` shows all")
    return table[name]


def name_of(method: Method | type[Method]) -> str:
    """The command name of a method."""
    kind = method if inspect.isclass(method) else type(method)
    return kind.__module__.rsplit(".", 1)[-1].replace("_", "-")
