"""The shape of the tree: what may be imported where, how modules are named, which versions are safe."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "semblant"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted([*MODULES, *(ROOT / "tests").rglob("*.py")])

FORBIDDEN_MODULES = ("torchvision", "pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
"""torchvision: has to match torch's version exactly. The others run code that a file carries."""

FORBIDDEN_NAMES = ("torch.load", "torch.hub", "diffusers.pipelines.deprecated")
"""torch.hub downloads and runs code."""

FORBIDDEN_ARGUMENTS = {"allow_pickle": True, "trust_remote_code": True, "use_safetensors": False}

PLACES_WHERE_THINGS_GET_LOST = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "managers"}

UNPICKLING = "semblant/training/interchange/unpickling.py"
"""The one module that reads pickles: a program of its own, started by `convert`, that takes tensors only."""

SECURITY_FLOORS = {"torch": "2.10", "diffusers": "0.38", "transformers": "5.3"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    """`semblant/ops/noise.py` -> `semblant.ops.noise`; a package is named without `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[int, str, str]]:
    """(line, local name, full dotted name) of everything imported anywhere in `tree`, functions included.

    `package` is what relative imports are relative to.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a; `import a.b as c` binds a.b.
                yield node.lineno, alias.asname or alias.name.partition(".")[0], alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{source}.{alias.name}"


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` as text; None when it does not start with a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)) is not None:
        return f"{left}.{node.attr}"
    return None


def within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(outer + ".")


def unsafe(source: str, deprecated: frozenset[str] = frozenset()) -> list[str]:
    """Every use of something the library never uses, as `line: name`."""
    tree = ast.parse(source)
    found = []
    local = {}
    for line, alias, name in imports(tree):
        local[alias] = name if alias != name.partition(".")[0] else alias
        if any(within(name, banned) for banned in (*FORBIDDEN_MODULES, *FORBIDDEN_NAMES)):
            found.append(f"{line}: {name}")
        if within(name, "diffusers") and name.rpartition(".")[2] in deprecated:
            found.append(f"{line}: {name}, a deprecated pipeline")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (text := dotted(node)):
            head, _, rest = text.partition(".")
            name = f"{local.get(head, head)}.{rest}"
            if name in FORBIDDEN_NAMES:
                found.append(f"{node.lineno}: {name}")
            if within(name, "diffusers") and name.rpartition(".")[2] in deprecated:
                found.append(f"{node.lineno}: {name}, a deprecated pipeline")
        if isinstance(node, ast.Call):
            for argument in node.keywords:
                value = argument.value.value if isinstance(argument.value, ast.Constant) else None
                if argument.arg in FORBIDDEN_ARGUMENTS and value is FORBIDDEN_ARGUMENTS[argument.arg]:
                    found.append(f"{node.lineno}: {argument.arg}={value}")
    return found


@pytest.fixture(scope="module")
def deprecated() -> frozenset[str]:
    """Pipelines that the installed diffusers calls deprecated, read from its source without importing it."""
    import importlib.util

    spec = importlib.util.find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "pipelines" / "__init__.py").read_text())
    names = set()
    for node in ast.walk(tree):
        # from .deprecated import (...), as type checkers see it
        if isinstance(node, ast.ImportFrom) and node.level == 1 and (node.module or "").startswith("deprecated"):
            names |= {alias.name for alias in node.names}
    return frozenset(names)


def test_deprecated_pipelines_are_found(deprecated):
    assert {"PaintByExamplePipeline", "StableDiffusionDiffEditPipeline"} <= deprecated


@pytest.mark.parametrize(
    "source",
    [
        "import torchvision",
        "import torchvision.transforms as T",
        "from torchvision import io",
        "def f():\n    import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load",
        "from torch import load as read",
        "import torch.nn\nread = torch.load",
        "import torch\ntorch.hub.load('a', 'b')",
        "read(x, allow_pickle=True)",
        "Model.from_pretrained('x', trust_remote_code=True)",
        "from diffusers import PaintByExamplePipeline",
        "import diffusers\ndiffusers.PaintByExamplePipeline",
        "from diffusers.pipelines.deprecated import anything",
    ],
)
def test_unsafe_code_is_seen(source, deprecated):
    assert unsafe(source, deprecated)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.save\nself.load('x')",
        "from safetensors.torch import load_file",
        "import json\njson.load(f)",
        "from diffusers import StableDiffusionPipeline",
        "Model.from_pretrained('x', use_safetensors=True)",
    ],
)
def test_safe_code_passes(source, deprecated):
    assert not unsafe(source, deprecated)


def test_nothing_unsafe_is_used(deprecated):
    found = [f"{named(path)}:{use}" for path in SOURCES for use in unsafe(path.read_text(), deprecated)]
    allowed = [use for use in found if use.startswith(f"{UNPICKLING}:") and use.endswith(": torch.load")]
    assert found == allowed and len(allowed) == 1, "\n".join(found)


def test_pickles_are_read_in_one_place_for_their_tensors_and_apart_from_everything_else():
    tree = ast.parse((ROOT / UNPICKLING).read_text())
    [call] = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) == "torch.load"]
    [only] = [argument.value for argument in call.keywords if argument.arg == "weights_only"]
    assert isinstance(only, ast.Constant) and only.value is True
    assert not [name for _, _, name in imports(tree) if within(name, "semblant")]
    callers = [
        named(path)
        for path in MODULES
        for _, _, name in imports(ast.parse(path.read_text()), module_name(path.parent / "__init__.py"))
        if within(name, "semblant.training.interchange.unpickling")
    ]
    assert callers == ["semblant/training/interchange/pickled.py"]


def test_modules_are_found():
    assert PACKAGE / "__init__.py" in MODULES and len(MODULES) > 10


def test_every_public_module_has_a_docstring():
    public = [path for path in MODULES if not path.stem.startswith("_") or path.stem == "__init__"]
    missing = [named(path) for path in public if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not missing, missing


def test_every_folder_with_modules_is_a_package():
    missing = sorted({named(path.parent) for path in MODULES if not (path.parent / "__init__.py").exists()})
    assert not missing, f"Without __init__.py a folder is not installed: {missing}"


def test_no_module_is_longer_than_400_lines():
    lengths = {named(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not (long := {name: length for name, length in lengths.items() if length > 400}), long


def test_modules_are_nouns_that_say_what_they_hold():
    words = {named(path): set(re.split(r"[._]", module_name(path))) for path in MODULES}
    assert not (lost := [name for name, parts in words.items() if PLACES_WHERE_THINGS_GET_LOST & parts]), lost


def foreign_methods(module: str, is_package: bool, source: str) -> list[str]:
    """Methods that the method `module` imports: `semblant.methods.<family>.<name>`, its own apart."""
    package = module if is_package else module.rpartition(".")[0]
    own = ".".join(module.split(".")[:4])
    families = {path.name for path in (PACKAGE / "methods").iterdir() if path.is_dir() and path.name != "__pycache__"}
    families.add(module.split(".")[2])
    return [
        f"{module}:{line} imports {name}"
        for line, _, name in imports(ast.parse(source), package)
        if within(name, "semblant.methods") and name.split(".")[2:3] and name.split(".")[2] in families
        if not within(name, own)
    ]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from semblant.methods.attention.masactrl import MasaCtrl", 1),
        ("from semblant.methods.tokens.p_plus import PPlus", 1),
        ("from .p_plus import PPlus", 1),
        ("from . import p_plus", 1),
        ("def f():\n    import semblant.methods.tokens.p_plus", 1),
        ("from semblant.methods.method import Method", 0),
        ("from ..method import Method", 0),
        ("from semblant.ops.noise import noise", 0),
    ],
)
def test_a_method_that_imports_a_method_is_seen(source, count, monkeypatch, tmp_path):
    (tmp_path / "methods" / "attention").mkdir(parents=True)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert len(foreign_methods("semblant.methods.tokens.sefi_ide", False, source)) == count


def test_no_method_imports_another():
    paths = [path for path in (PACKAGE / "methods").glob("*/**/*.py") if path.name != "__init__.py"]
    found = [use for path in paths for use in foreign_methods(module_name(path), False, path.read_text())]
    assert not found, "\n".join(found)


def test_ops_knows_torch_and_jaxtyping_and_nothing_else():
    allowed = {"torch", "jaxtyping", "semblant", "__future__", *sys.stdlib_module_names}
    found = [
        f"{named(path)}:{line}: {name}"
        for path in (PACKAGE / "ops").rglob("*.py")
        for line, _, name in imports(ast.parse(path.read_text()), "semblant.ops")
        if name.split(".")[0] not in allowed
    ]
    assert not found, "\n".join(found)


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> dict[str, Requirement]:
    project = pyproject()["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def constraints() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", SECURITY_FLOORS)
def test_versions_below_the_security_floor_are_refused(name):
    floor = Version(SECURITY_FLOORS[name])
    specifier = requirements()[name].specifier
    below = [f"{floor.major}.{floor.minor - 1}.99", "0.1", "1.0", f"{floor.major}.{floor.minor}.0rc1"]
    assert not [version for version in below if specifier.contains(version) and Version(version) < floor]
    lower = [Version(part.version) for part in specifier if part.operator in (">=", ">", "==", "~=")]
    assert lower and min(lower) >= floor
    assert specifier.contains(constraints()[name])


def test_constraints_pin_every_requirement_to_a_version_it_allows():
    wanted, pinned = requirements(), constraints()
    assert not wanted.keys() - pinned.keys()
    assert not [name for name, requirement in wanted.items() if not requirement.specifier.contains(pinned[name])]


def test_nothing_requires_torchvision():
    assert not [name for name in (*requirements(), *constraints()) if "vision" in name.lower()]


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_importing_semblant_does_no_work():
    code = "import semblant, sys; print(*sorted(m for m in sys.modules if m in ('torch', 'numpy', 'PIL', 'diffusers')))"
    assert fresh(code).strip() == ""


def test_public_names_come_from_their_modules():
    import semblant

    for name, home in semblant._HOME_OF.items():
        path = PACKAGE.joinpath(*home.split(".")[1:])
        if path.with_suffix(".py").exists() or path.is_dir():
            assert getattr(semblant, name) is getattr(sys.modules[home], name)
        else:
            with pytest.raises(AttributeError, match=name):
                getattr(semblant, name)
        assert name in dir(semblant)


def test_an_unknown_name_is_refused_with_those_there_are():
    import semblant

    with pytest.raises(AttributeError, match="measure"):
        semblant.mesure  # noqa: B018


def test_a_missing_dependency_is_not_mistaken_for_a_missing_name(monkeypatch):
    import semblant

    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(semblant, "import_module", absent)
    monkeypatch.delitem(vars(semblant), "fit", raising=False)
    with pytest.raises(ModuleNotFoundError, match="torch"):
        _ = semblant.fit
