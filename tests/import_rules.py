"""The imports of source files, lazy ones included, and the rules on who may import whom."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {"mixvec": (), "pretrain": ("mixvec",), "finetune": ("mixvec",), "tools": ("mixvec", "pretrain", "finetune")}
"""What each package may import besides itself."""
BASE = ("atomic", "audio", "errors", "extents", "gate", "parent", "resample", "text", "version", "walk")
"""Modules of mixvec that know nothing of training."""
ROOMS: dict[str, tuple[str, ...]] = {
    "mixvec.model": (),
    "mixvec.kernels": ("mixvec.model", "mixvec.errors"),
    "mixvec.data": ("mixvec.model", *(f"mixvec.{name}" for name in BASE)),
}
"""What the packages inside mixvec may import besides themselves. Only applications import ``mixvec.training``."""


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, lazy: bool = True) -> Iterator[str]:
    """Every module imported under `node`: absolute names as they are, relative ones with their leading dots.

    Without `lazy`, only what importing the module runs: nothing inside functions or `if TYPE_CHECKING`.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from [base] if child.module else [base + name.name for name in child.names]
        elif isinstance(child, ast.Call) and ast.unparse(child.func) in ("__import__", "importlib.import_module"):
            yield from (arg.value for arg in child.args[:1] if isinstance(arg, ast.Constant))
        if lazy or not (isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(child)):
            yield from imports(child, lazy)


def foreign_imports(source: str, allowed: set[str], lazy: bool = True) -> list[str]:
    """Imports that are neither relative, nor standard library, nor allowed."""
    tops = {name.split(".")[0] for name in imports(ast.parse(source), lazy) if not name.startswith(".")}
    return sorted(tops - allowed - set(sys.stdlib_module_names))


def stray_imports(source: str, layer: str) -> list[str]:
    """Imports of a package of the project, or of the tests, that ``layer`` may not import."""
    others = {*LAYERS, "tests"} - {layer, *LAYERS[layer]}
    return sorted(name for name in imports(ast.parse(source)) if name.split(".")[0] in others)


def escaping_imports(source: str, depth: int) -> list[str]:
    """Relative imports with more dots than the file has packages above it: they would leave the package."""
    return sorted(name for name in imports(ast.parse(source)) if len(name) - len(name.lstrip(".")) > depth)


def unflat_imports(source: str) -> list[str]:
    """What transformers' loader cannot follow: relative imports other than ``from .module import name``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level and (node.level > 1 or "." in (node.module or ".")):
            found.append("." * node.level + (node.module or ""))
    return found


Graph = dict[str, set[str]]


def import_graph(sources: dict[str, str], packages: set[str]) -> Graph:
    """Which modules of the project each module imports, lazily or not, by full names.

    Args:
        sources: source text by module name; a package has the name of its ``__init__``.
        packages: the names in ``sources`` that are packages.
    """
    graph: Graph = {}
    for module, source in sources.items():
        above = module.split(".") if module in packages else module.split(".")[:-1]
        found = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = above[: len(above) - node.level + 1] if node.level else []
                base = ".".join([*start, *([node.module] if node.module else [])])
                parts = {f"{base}.{name.name}" for name in node.names}
                found |= parts & sources.keys() or {base}
        graph[module] = (found & sources.keys()) - {module}
    return graph


def cycles(graph: Graph) -> list[str]:
    """The import cycles: for each module that reaches itself, the shortest way, each cycle once."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(graph):
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop(0)
            for following in sorted(graph[way[-1]]):
                if following == start:
                    found.setdefault(frozenset(way), [*way, start])
                elif following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
    return [" → ".join(way) for way in found.values()]


def room_breaches(graph: Graph) -> list[str]:
    """Imports inside mixvec that point the wrong way, as ``importer → imported``."""
    found = []
    for module, imported in graph.items():
        room = ".".join(module.split(".")[:2])
        for name in imported:
            target = ".".join(name.split(".")[:2])
            applied = target == "mixvec.training" and module.startswith("mixvec") and room != target
            if applied or (room in ROOMS and target not in (room, *ROOMS[room])):
                found.append(f"{module} → {name}")
    return sorted(found)


def project_graph() -> Graph:
    """The import graph of all product code."""
    sources, packages = {}, set()
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            packages |= {name} if parts[-1] == "__init__" else set()
            sources[name] = path.read_text(encoding="utf-8")
    return import_graph(sources, packages)
