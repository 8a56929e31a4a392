"""The house rules that a machine can keep: who may import whom, how long things get, and what is never called.

Each rule is a function from source text to a list of breaches, so that it can be shown to fail on a bad example.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.import_rules import (
    LAYERS,
    ROOT,
    cycles,
    escaping_imports,
    foreign_imports,
    import_graph,
    imports,
    project_graph,
    room_breaches,
    stray_imports,
    unflat_imports,
)

BASE_DEPENDENCIES = {"torch", "torchaudio", "numpy", "safetensors", "huggingface_hub", "soundfile"}
MODEL_DEPENDENCIES = {"torch", "torchaudio", "numpy"}
FOR_TRANSFORMERS = {f"mixvec/model/{kind}_mixvec.py": ["transformers"]
                    for kind in ("configuration", "modeling", "tokenization")}  # fmt: skip
"""Files by which transformers loads a published folder, under the names that it asks for."""
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
    assert each(lambda source: stray_imports(source, layer), layer) == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_relative_imports_stay_in_their_package(layer: str) -> None:
    found = {
        label(path): escaping_imports(path.read_text(encoding="utf-8"), len(path.relative_to(ROOT).parts) - 1)
        for path in python_files(layer)
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_inside_mixvec_imports_point_one_way() -> None:
    """training → data → (audio, model), kernels → model, model → nothing; no library module imports training."""
    assert room_breaches(project_graph()) == []


def test_there_is_no_import_cycle() -> None:
    """In all product code, imports inside functions and under TYPE_CHECKING included."""
    graph = project_graph()
    assert len(graph) > 100 and "mixvec.build" in graph["mixvec.hub"] and "mixvec.wav2vec2" in graph["mixvec.build"]
    assert cycles(graph) == []


def test_the_library_needs_only_its_base_dependencies() -> None:
    """All but what the extra [train] is for; what an extra of its own brings is imported where it is used."""
    training = ("mixvec/data/", "mixvec/training/")
    found = each(lambda source: foreign_imports(source, BASE_DEPENDENCIES | {"mixvec"}), "mixvec")
    breaches = {name: names for name, names in found.items() if not name.startswith(training)}
    assert breaches == {"mixvec/kernels/triton.py": ["triton"], "mixvec/wav2vec2.py": ["fairseq2"],
                        "mixvec/cli/outputs.py": ["pyarrow"],
                        "mixvec/ngram.py": ["flashlight"], "mixvec/text.py": ["sentencepiece"],
                        "mixvec/fairseq2_family.py": ["fairseq2"],
                        "mixvec/onnx_export.py": ["onnx", "onnxruntime", "onnxscript"],
                        "mixvec/onnx_model.py": ["onnxruntime"],
                        "mixvec/sound.py": ["av"], "mixvec/serving.py": ["aiohttp"],
                        "mixvec/transformers_encoder.py": ["transformers"], **FOR_TRANSFORMERS}  # fmt: skip


def test_fairseq2_is_imported_in_two_modules() -> None:
    """Its encoder, and our models in it; and in the bench's, where it is the competitor."""

    def names(source: str) -> list[str]:
        return [name for name in imports(ast.parse(source)) if name.split(".")[0] in ("fairseq2", "fairseq2n")]

    assert set(each(names, *LAYERS)) - {"tools/bench/peers.py"} == {"mixvec/wav2vec2.py", "mixvec/fairseq2_family.py"}


def test_model_files_travel() -> None:
    """They run in hub folders without mixvec: one flat folder, ``from .module import``, torch, torchaudio and numpy."""
    assert [path for path in (ROOT / "mixvec/model").iterdir() if path.is_dir() and path.name != "__pycache__"] == []
    assert each(lambda source: foreign_imports(source, MODEL_DEPENDENCIES), "mixvec/model") == FOR_TRANSFORMERS
    assert each(unflat_imports, "mixvec/model") == {}


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
    """A configuration of transformers passes on what it does not know."""
    assert each(keyword_catchalls, *LAYERS) == {"mixvec/model/configuration_mixvec.py": ["__init__(**kwargs)"]}
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
        (lambda s: stray_imports(s, "pretrain"), "def f():\n    from finetune import asr", "from mixvec import hub"),
        (lambda s: stray_imports(s, "mixvec"), "import pretrain.data as data", "import pretraining"),
        (lambda s: stray_imports(s, "finetune"), "def f():\n    import pretrain.train", "from mixvec.data import plan"),
        (unflat_imports, "def f():\n    from ..hub import load", "from .hub import load\nimport torch"),
        (unflat_imports, "from . import hub", "from .hub import load"),
        (unflat_imports, "from .heads.ctc import A", "from .ctc import A"),
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


def test_the_rules_on_the_graph_can_fail() -> None:
    lazy = "def f():\n    from .hub import load"
    hidden = "if TYPE_CHECKING:\n    from .a import A"
    for back in (lazy, hidden.replace(".a", ".hub")):
        sources = {"mixvec": "", "mixvec.hub": "from .a import A", "mixvec.a": back}
        assert cycles(import_graph(sources, {"mixvec"})) == ["mixvec.a → mixvec.hub → mixvec.a"]
    sources["mixvec.a"] = "import torch"
    assert cycles(import_graph(sources, {"mixvec"})) == []
    package = {"mixvec": "from .a import A", "mixvec.a": "from . import VERSION"}
    assert cycles(import_graph(package, {"mixvec"})) == ["mixvec → mixvec.a → mixvec"]
    for module, source, breach in [
        ("mixvec.model.b", "def f():\n    from ..hub import load", "mixvec.model.b → mixvec.hub"),
        ("mixvec.data.b", "from ..training.run import Run", "mixvec.data.b → mixvec.training.run"),
        ("mixvec.hub", "from .training.run import Run", "mixvec.hub → mixvec.training.run"),
        ("mixvec.kernels.b", "from ..data.plan import plan", "mixvec.kernels.b → mixvec.data.plan"),
    ]:
        others = {"mixvec.training.run": "", "mixvec.data.plan": "", "mixvec.hub": ""}
        assert room_breaches(import_graph(others | {module: source}, set())) == [breach]
    fine = {"mixvec.training.run": "from ..data.plan import plan\nfrom ..hub import load"}
    assert room_breaches(import_graph(others | fine, set())) == []
