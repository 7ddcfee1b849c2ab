"""Teach a text-to-image diffusion model who or what is in your pictures; then generate, edit and measure.

Public names are imported on first use, so that `import semblant` itself does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME_OF = {
    "Base": "semblant.backbones.base",
    "Concept": "semblant.training.concepts",
    "Framing": "semblant.backbones.context",
    "SemblantError": "semblant.errors",
    "Subject": "semblant.data.subject",
    "fit": "semblant.verbs",
    "load": "semblant.verbs",
    "measure": "semblant.verbs",
    "sample": "semblant.verbs",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    """Import the public `name` from the module that defines it. AttributeError when there is none."""
    if name not in _HOME_OF:
        raise AttributeError(f"semblant has no {name!r}. It has: {', '.join(sorted(_HOME_OF))}.")
    home = _HOME_OF[name]
    try:
        module = import_module(home)
    except ModuleNotFoundError as error:
        # Only a module of ours that does not exist means "no such name"; a missing dependency has to be seen as such.
        if error.name is None or not (home + ".").startswith(error.name + "."):
            raise
        raise AttributeError(f"semblant.{name} is not in this version: there is no module {error.name}.") from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
