"""What a stage's code consists of: the modules that it imports, and the folders that dvc.yaml must name.

DVC does not look into Python imports. One place computes them, for the test of dvc.yaml and for a repository
of one's own, where code is a package.
"""

import ast
from functools import cache
from pathlib import Path

from drtune.params import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
LOADER = "drtune.training.contract"
"""The module that imports a method by the name of its folder."""


def stage_code(stage: str, method: str = "${train.method}") -> set[str]:
    """Files of pipeline/ and folders of drtune/ with a stage's code; `method`: how its folder is spelled."""
    names = closure(f"pipeline.{stage}")
    places = {place_of(name) for name in names}
    if LOADER not in names:
        return places
    for known in SETTINGS:
        own = {place_of(name) for name in closure(f"drtune.methods.{known}.method")}
        places |= own - {f"drtune/methods/{known}"}
    return places | {f"drtune/methods/{method}"}


def place_of(name: str) -> str:
    """Where DVC looks at a module: a stage's own file, a method's folder, or a folder of drtune/."""
    parts = name.split(".")
    if parts[0] == "pipeline":
        return "/".join(parts) + ".py"
    return "/".join(parts[: 3 if parts[1] == "methods" else 2])


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the project."""
    paths = [path for top in ("drtune", "pipeline") for path in sorted((ROOT / top).rglob("*.py"))]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    return dict(zip(names, paths, strict=True))


@cache
def tree(name: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@cache
def imported(name: str) -> frozenset[str]:
    """Every dotted name that a module imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def edges(name: str) -> set[str]:
    """Our modules that a module imports itself; a package that holds a docstring alone is none."""
    return {other for other in imported(name) if other in modules() and has_code(other)} - {name}


def has_code(name: str) -> bool:
    """Whether a module holds more than a docstring."""
    return not all(isinstance(node, ast.Expr) for node in tree(name).body)


def closure(start: str) -> set[str]:
    """Every module of ours, with `start`, whose code runs when `start` is imported."""
    seen, waiting = set(), [start]
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += edges(name)
    return seen
