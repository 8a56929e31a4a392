"""The house rules that a machine can keep: who may import whom, how long things get, and what is never called.

Each rule is a function from source text to a list of breaches, so that it can be shown to fail on a bad example.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("mixvec", "pretrain", "finetune", "tools")  # each may import itself and those before it
BASE_DEPENDENCIES = {"torch", "torchaudio", "numpy", "safetensors", "huggingface_hub", "soundfile"}
MODEL_DEPENDENCIES = {"torch", "torchaudio", "numpy"}
MODEL_FILES = ("config", "padding", "mixing", "frontend", "blocks", "encoder", "heads/__init__")
UNPICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
VAGUE_NAMES = {"util", "utils", "helpers", "misc", "common"}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
# Spelled in two halves, so that this file is not its own finding.
REGISTRY_HOSTS = re.compile(
    "|".join(
        name + r"\." + domain
        for name, domain in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("anaconda", "(?:org|com)"),
            ("download.pytorch", "org"),
            ("npmjs", "(?:org|com)"),
            ("crates", "io"),
            ("docker", "io"),
            ("ghcr", "io"),
        ]
    ),
    re.IGNORECASE,
)
TEXT_SUFFIXES = {".py", ".sh", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", ".typed", ""}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for folder in (*LAYERS, "configs", "tests", ".ci") for path in (ROOT / folder).rglob("*")]
    for path in sorted(top + below):
        if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
            yield path


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


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


def upward_imports(source: str, layer: str) -> list[str]:
    above = (*LAYERS[LAYERS.index(layer) + 1 :], "tests")
    return sorted(name for name in imports(ast.parse(source)) if name.split(".")[0] in above)


def escaping_imports(source: str, depth: int) -> list[str]:
    """Relative imports with more dots than the file has packages above it: they would leave the package."""
    return sorted(name for name in imports(ast.parse(source)) if len(name) - len(name.lstrip(".")) > depth)


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def long_functions(source: str) -> list[str]:
    """Functions over the limit, docstring included and decorators not."""
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions(source)]
    return [f"{name}: {lines} lines" for name, lines in lengths if lines > MAX_FUNCTION_LINES]


def keyword_catchalls(source: str) -> list[str]:
    return [f"{node.name}(**{node.args.kwarg.arg})" for node in functions(source) if node.args.kwarg]


def mutable_defaults(source: str) -> list[str]:
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    makers = {"list", "dict", "set", "defaultdict"}
    found = []
    for node in functions(source):
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            made = isinstance(default, ast.Call) and ast.unparse(default.func) in makers
            if made or isinstance(default, displays):
                found.append(f"{node.name}: {ast.unparse(default)}")
    return found


def unsafe_calls(source: str) -> list[str]:
    """Whatever could run code that came with a file: unpickling in any form, and remote code."""
    tree = ast.parse(source)
    found = [f"import {name}" for name in imports(tree) if name.split(".")[0] in UNPICKLERS]
    found += [name for name in imports(tree) if name == "torch.serialization"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            found += [f"from torch import {name.name}" for name in node.names if name.name in ("load", "save")]
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.hub", "torch.save"):
            found.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            switched_off = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if switched_off else [f"{node.arg}={ast.unparse(node.value)}"]
    return found


def each(rule: Callable[[str], list[str]], *folders: str) -> dict[str, list[str]]:
    breaches = {label(path): rule(path.read_text(encoding="utf-8")) for path in python_files(*folders)}
    return {name: found for name, found in breaches.items() if found}


def test_layers_exist_as_packages() -> None:
    assert [name for name in LAYERS if not (ROOT / name / "__init__.py").is_file()] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    assert each(lambda source: upward_imports(source, layer), layer) == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_relative_imports_stay_in_their_package(layer: str) -> None:
    found = {
        label(path): escaping_imports(path.read_text(encoding="utf-8"), len(path.relative_to(ROOT).parts) - 1)
        for path in python_files(layer)
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_mixvec_needs_only_its_base_dependencies() -> None:
    breaches = each(lambda source: foreign_imports(source, BASE_DEPENDENCIES | {"mixvec"}), "mixvec")
    assert breaches == {"mixvec/kernels.py": ["triton"], "mixvec/wav2vec2.py": ["fairseq2"]}


def test_fairseq2_is_imported_in_one_module() -> None:
    """And in the bench's, where it is the competitor."""

    def names(source: str) -> list[str]:
        return [name for name in imports(ast.parse(source)) if name.split(".")[0] in ("fairseq2", "fairseq2n")]

    assert list(each(names, *LAYERS)) == ["mixvec/wav2vec2.py", "tools/bench/fairseq2_systems.py"]


@pytest.mark.parametrize("name", MODEL_FILES)
def test_model_files_travel(name: str) -> None:
    """They are loaded from hub folders by people without mixvec: relative imports, torch, torchaudio and numpy."""
    source = (ROOT / "mixvec" / f"{name}.py").read_text(encoding="utf-8")
    assert foreign_imports(source, MODEL_DEPENDENCIES) == []


def test_what_model_files_load_travels_too() -> None:
    """The same for every module that importing a model file loads, however far down."""
    waiting, seen = [ROOT / "mixvec" / f"{name}.py" for name in MODEL_FILES], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        source = path.read_text(encoding="utf-8")
        assert foreign_imports(source, MODEL_DEPENDENCIES, lazy=False) == [], label(path)
        for name in imports(ast.parse(source), lazy=False):
            if name.startswith("."):
                above = path.parents[len(name) - len(name.lstrip(".")) - 1]
                waiting.append(above / f"{name.lstrip('.').split('.')[0]}.py")
    assert ROOT / "mixvec/heads/ctc.py" in seen and ROOT / "mixvec/frontend.py" in seen


def test_files_are_short() -> None:
    lines = {label(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*LAYERS, "tests")}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    assert each(long_functions, *LAYERS, "tests") == {}


@pytest.mark.parametrize("layer", ["pretrain", "finetune"])
def test_the_training_loop_is_one_function(layer: str) -> None:
    source = (ROOT / layer / "train.py").read_text(encoding="utf-8")
    (train,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "train"]
    assert any(isinstance(node, (ast.For, ast.While)) for node in ast.walk(train)), "train() contains no loop"
    assert (train.end_lineno or 0) - train.lineno < MAX_FUNCTION_LINES


def test_no_module_is_named_utils() -> None:
    names = [label(path) for path in python_files(*LAYERS, "tests") if {path.stem, path.parent.name} & VAGUE_NAMES]
    assert names == []


def test_no_keyword_catchalls_and_no_mutable_defaults() -> None:
    assert each(keyword_catchalls, *LAYERS) == {}
    assert each(mutable_defaults, *LAYERS, "tests") == {}


def test_nothing_is_unpickled() -> None:
    assert each(unsafe_calls, *LAYERS) == {}


def test_no_package_registry_is_named() -> None:
    named = {
        label(path): REGISTRY_HOSTS.findall(path.read_text(encoding="utf-8", errors="replace")) for path in text_files()
    }
    assert {name: hosts for name, hosts in named.items() if hosts} == {}


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (lambda s: upward_imports(s, "pretrain"), "def f():\n    from finetune import asr", "from mixvec import hub"),
        (lambda s: upward_imports(s, "mixvec"), "import pretrain.data as data", "import pretraining"),
        (lambda s: foreign_imports(s, {"torch"}), "import importlib\nimportlib.import_module('tqdm')", "import json"),
        (lambda s: foreign_imports(s, {"torch"}, lazy=False), "import yaml", "def f():\n    import yaml"),
        (lambda s: escaping_imports(s, 1), "from ..pretrain import data", "from .data import a\nfrom . import b"),
        (long_functions, "def f():\n" + "    a = 1\n" * 60, "def f():\n" + "    a = 1\n" * 59),
        (long_functions, "class A:\n  def f():\n" + "    a = 1\n" * 60 + "class B:\n  def f(): ...", "def f(): ..."),
        (keyword_catchalls, "class A:\n    def f(self, **extra): ...", "def f(*args, key=1): g(**args)"),
        (mutable_defaults, "def f(*, a=dict()): ...", "def f(a=()): ..."),
        (unsafe_calls, "import torch\ntorch.load('x')", "import json\njson.load(file)"),
        (unsafe_calls, "from pickle import load", "from safetensors.torch import load_file"),
        (unsafe_calls, "load('x', trust_remote_code=True)", "load('x', trust_remote_code=False)"),
        (REGISTRY_HOSTS.findall, "https://files." + "pythonhosted" + ".org/x", "https://huggingface.co/x"),
    ],
)
def test_each_rule_can_fail(rule: Callable[[str], list[str]], bad: str, good: str) -> None:
    assert rule(bad) and not rule(good)
