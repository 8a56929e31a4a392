"""The README and docs/: their commands and Python run at a tiny size, their links resolve, their tables are current.

Blocks marked ``bash`` are run; those marked ``sh``, which take an hour, have their keys checked; ``python`` is run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from mixvec.errors import UserError
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tests import prepared
from tests.runs import ROOT, SMALLEST
from tools.corpus import CorpusConfig, write_corpus

README = ROOT / "README.md"
DOCS = ROOT / "docs"
LINKED = reversed(dict.fromkeys(reversed(re.findall(r"\((docs/[\w-]+\.md)\)", README.read_text()))))
PAGES = [README, *(ROOT / name for name in LINKED)]
"""In the order of the README's table, in which each page's commands may use the runs of those before it."""
EXTENDING = DOCS / "extending.md"
MAX_README_BYTES = 10_000
TINY_PRETRAIN = ["size=tiny", *SMALLEST, "run.updates=2", "run.log_every=1", "batch.update_s=10", "batch.max_s=10",
                 "data.min_s=1", "data.max_s=5", "data.workers=0", "encoder.layer_drop=0"]  # fmt: skip
TINY_FINETUNE = ["run.updates=2", "run.eval_every=2", "run.log_every=1", "batch.update_s=10", "data.workers=0"]
TESTED_ELSEWHERE = {"python -m tools.bench --preset smoke": "tests/tools/test_bench.py"}
USED_LATER = re.compile(r"run\.dir=runs/(small|asr|intent|asr-bpe)\b(?!-)|tools\.publish")
"""Commands whose runs other pages use."""
GONE = {("performance.md", "--profile")}
"""Options of commands that the page itself dates to an earlier commit."""
LABELLED_TASKS = ("asr", "intent", "slots")


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path | None = None) -> Iterator[str]:
    """The commands of the ``bash`` blocks, each once, of all pages or those that ``page`` has first.

    Not of docs/extending.md, which tests/test_extending.py runs.
    """
    found = dict[str, Path]()
    for own in PAGES:
        for block in blocks("bash", own) if own != EXTENDING else []:
            lines = block.replace("\\\n", " ").splitlines()
            for line in filter(None, (line.split(" #")[0].strip() for line in lines)):
                found.setdefault(line, own)
    yield from (command for command, own in found.items() if page in (None, own))


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to files, or to headings, that do not exist."""
    broken = []
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if re.match(r"\w+://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        file = page if not name else (page.parent / name).resolve()
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    return broken


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    assert set(DOCS.glob("*.md")) == set(PAGES[1:])


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MAX_README_BYTES


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('# One\n[a](other.md) [b](#one) [c](#two) [d](https://host/x) <img src="no.svg">\n')
    assert broken_links(page) == ["other.md", "#two", "no.svg"]


def test_the_generated_pages_are_current() -> None:
    """``python docs/configuration.py`` writes them."""
    spec = importlib.util.spec_from_file_location("configuration", DOCS / "configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.pages().items():
        assert path.read_text() == text, f"{path.name} is out of date; run: python docs/configuration.py"


def test_the_documentation_has_the_commands_that_matter() -> None:
    words = {command.split()[0] for command in commands()}
    modules = {command.split()[2] for command in commands() if command.startswith("python -m")}
    assert {"make", "python", "mixvec", "torchrun"} <= words
    assert {"pretrain", "finetune", "tools.publish"} <= modules


def test_every_module_and_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        text = page.read_text()
        for module in re.findall(r"-m ((?:tools|pretrain|finetune|tests|mixvec)[\w.]*)", text):
            assert importlib.util.find_spec(module.rstrip(".")) is not None, (page.name, module)
        for target in re.findall(r"`make ([a-z-]+)", text) + re.findall(
            r"^make ([a-z-]+)", "".join(blocks("bash", page))
        ):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page.name, target)


def test_every_option_of_a_tool_exists() -> None:
    """The sources of the tool name it, for commands in blocks and in running text alike."""
    found = 0
    for page in PAGES:
        for words in re.findall(r"-m tools\.(\w+)((?:[^`\n\\]|\\\n)*)", page.read_text()):
            tool, options = words[0], re.findall(r"(?<= )--[a-z-]+", words[1])
            sources = [*(ROOT / "tools").glob(f"{tool}.py"), *(ROOT / "tools").glob(f"{tool}/*.py")]
            text = "".join(source.read_text() for source in sources)
            for option in options:
                if (page.name, option) not in GONE:
                    assert f'"{option}"' in text, f"{page.name}: python -m tools.{tool} has no {option}"
                    found += 1
    assert found >= 20


def test_the_keys_of_every_command_exist() -> None:
    """Of those that are run as well, since this test is quick."""
    checked = 0
    for command in commands():
        words = shlex.split(command)
        if "--help" in words or not {"pretrain", "finetune"} & set(words):
            continue
        at = next(number for number, word in enumerate(words) if word in ("pretrain", "finetune"))
        load_config(PretrainConfig if words[at] == "pretrain" else FinetuneConfig, words[at + 1 :], "")
        checked += 1
    assert checked >= 5
    with pytest.raises(UserError, match="updatez"):
        load_config(PretrainConfig, ["run.updatez=1"], "")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny corpus, in which the commands have run whose runs other pages use."""
    folder = tmp_path_factory.mktemp("docs")
    labelled = {"asr_train": 6, "asr_validation": 3, "asr_test": 4}
    labelled |= {"intent_train": 2, "intent_validation": 1, "intent_test": 1}  # a probe needs two of each label
    write_corpus(folder / "corpus", CorpusConfig(hours=0.02, **labelled))
    for name in ("configs", "pretrain", "finetune", "tools", "mixvec"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(next((folder / "corpus/asr/test/audio").iterdir()), folder / "speech.flac")
    used = [command for command in commands() if USED_LATER.search(command)]
    assert len(used) == 5
    assert "".join(fault_of(tiny(command, folder / "corpus"), folder) for command in used) == ""
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != EXTENDING and re.search("```(bash|python)", page.read_text())],
    ids=lambda page: page.name,
)  # fmt: skip
def test_every_command_and_program_runs(workspace: Path, page: Path) -> None:
    """All but make's, whose targets exist, and those that another test runs; with tiny corpora and sizes."""
    failed = []
    for command in commands(page):
        if not (command.startswith("make") or command in TESTED_ELSEWHERE or USED_LATER.search(command)):
            failed.append(fault_of(tiny(command, workspace / "corpus"), workspace))
    for block in blocks("python", page):
        failed.append(fault_of([sys.executable, "-c", block.replace("speech.wav", "speech.flac")], workspace))
    assert "".join(failed) == ""


def fault_of(words: list[str], folder: Path, root: Path = ROOT) -> str:
    """Run a command in ``folder`` with the code of ``root``; what it printed where it failed, else nothing.

    The first of ``pretrain``, ``finetune`` and ``mixvec``, torchrun and programs that do without mixvec start afresh.
    """
    kind = words[2] if words[1] == "-m" else "alone" if words[1] == "-c" and "mixvec" not in words[2] else ""
    first = kind in ("pretrain", "finetune", "mixvec") and kind not in started
    if first or root != ROOT or kind in ("alone", "torch.distributed.run"):
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
        started.add(kind)
    else:
        done = prepared.run(words[2:] if words[1] == "-m" else words[1:], folder=folder, PYTHONPATH=str(ROOT))
    return f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}\n" if done.returncode else ""


started = set[str]()
"""Modules that a test has run in an interpreter of their own."""


def tiny(command: str, corpus: Path) -> list[str]:
    """The command with this corpus's paths, and keys that make it short."""
    task = "intent" if "intent" in command else "asr"
    paths = {"AUDIO": corpus / "unlabelled", "LABELLED": corpus / task, "DATA": corpus, "speech.wav": "speech.flac"}
    if "probe.data" in command:
        paths["LABELLED"] = corpus / "intent"
    for name, path in paths.items():
        command = command.replace(name, str(path))
    command = command.replace("vocabulary_size=500", "vocabulary_size=30").replace("log-mel,random", "log-mel")
    words = shlex.split(command)
    if "--help" not in words:
        words += TINY_PRETRAIN if "pretrain" in words or "tools.fit" in words else []
        words += TINY_FINETUNE if "finetune" in words or "tools.probe" in words else []
    if words[0] == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    if words[0] == "mixvec":
        return [sys.executable, "-m", "mixvec", *words[1:]]
    return [sys.executable, *words[1:]]


def test_the_commands_that_take_an_hour_have_keys_that_exist(tmp_path: Path) -> None:
    """A shell runs them with a python that writes down its arguments; the configurations then take the keys."""
    stand_in, asked = tmp_path / "python", tmp_path / "asked.jsonl"
    note = f"open({str(asked)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\n{note}\n")
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    script = "\n".join(block for page in PAGES for block in blocks("sh", page))
    subprocess.run(["bash", "-euc", script], env=os.environ | {"PATH": path}, check=True)
    modules = []
    for words in map(json.loads, asked.read_text().splitlines()):
        if words[0] != "-m":
            assert (ROOT / words[0]).is_file()
            continue
        modules.append(words[1])
        keys = [word for word in words if "=" in word]
        if words[1] in ("pretrain", "tools.fit"):
            load_config(PretrainConfig, [str(ROOT / words[2]), *keys], "")
        elif words[1] in ("tools.probe", "tools.decode"):
            task = words[words.index("--tasks") + 1].split(",")[0] if "--tasks" in words else "asr"
            folder = "configs" if "--finetune" in words or words[1] == "tools.decode" else "configs/probe"
            load_config(FinetuneConfig, [str(ROOT / folder / f"{task}.yaml"), "pretrained=runs/sm-0", *keys], "")
    assert len(modules) >= 12 and {"pretrain", "tools.probe", "tools.decode", "tools.bench"} <= set(modules)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_is_in_the_tables(path: Path) -> None:
    page = "finetuning.md" if path.stem in LABELLED_TASKS else "configuration.md"
    assert f"`{path.name}`" in (DOCS / page).read_text()


@pytest.mark.parametrize("name", LABELLED_TASKS)
def test_every_fine_tuning_config_loads(name: str) -> None:
    assert load_config(FinetuneConfig, [str(ROOT / f"configs/{name}.yaml"), "size=tiny"], "").task == name


def missing_files(text: str) -> list[str]:
    """The files and folders of the repository that a page names in code style and that do not exist."""
    named = re.findall(r"`((?:mixvec|pretrain|finetune|tools|configs|tests|docs)/[\w./-]*)`", text)
    return [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    assert missing_files(page.read_text()) == []


def test_a_missing_file_is_found() -> None:
    assert missing_files("`mixvec/model/` and `mixvec/no_such.py`") == ["mixvec/no_such.py"]
