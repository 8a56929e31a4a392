"""The wheel: it holds `mixvec` alone, and works where only its own dependencies exist.

The bare environment is a new venv without packages. The wheel is installed into it without its dependencies; these are
then linked in from the environment that runs the tests: exactly the distributions that the wheel's own metadata asks
for, and what those ask for in turn. So nothing is downloaded, and whatever the metadata forgets is missing, as it would
be on a user's machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
BASE_DEPENDENCIES = {"torch", "torchaudio", "numpy", "safetensors", "huggingface-hub", "soundfile"}
TRAINING_ONLY = ("fairseq2", "fairseq2n", "accelerate", "datasets", "omegaconf", "transformers", "tensorboard")
TRAINING_CODE = ("pretrain", "finetune", "tools", "tests")


def call(command: list[str], cwd: Path) -> str:
    """Run it without this environment's import paths; its output, or an assertion that shows what it said."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def needed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """The distributions that satisfy the requirements, and theirs, without extras."""
    found: dict[str, Distribution] = {}
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = distribution(name)
        waiting += found[name].requires or []
    return found


def link(dist: Distribution, site_packages: Path) -> None:
    """Make the distribution importable from there: its top-level files and folders, as links."""
    for name in {PurePosixPath(file).parts[0] for file in dist.files or []} - {"..", "__pycache__"}:
        if not (site_packages / name).exists():
            (site_packages / name).symlink_to(Path(str(dist.locate_file(name))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the whole project, so that no left-over build folder gets in and none is left behind."""
    source, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "runs", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=left_out)
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)], out)
    (built,) = out.glob("*.whl")
    return built


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of the bare environment."""
    home = tmp_path_factory.mktemp("bare")
    call([sys.executable, "-m", "venv", "--without-pip", str(home)], home)
    python = home / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    call([sys.executable, "-m", "pip", "--python", str(python), *install], home)
    where = call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home)
    for dist in needed(requirements(wheel)).values():
        link(dist, Path(where.strip()))
    return python.parent


def test_wheel_holds_mixvec_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {PurePosixPath(name).parts[0] for name in names} == {"mixvec", "mixvec-0.1.0.dist-info"}
    assert "mixvec/py.typed" in names
    modules = {f"mixvec/{path.relative_to(ROOT / 'mixvec').as_posix()}" for path in (ROOT / "mixvec").rglob("*.py")}
    assert modules == {name for name in names if name.startswith("mixvec/") and name.endswith(".py")}
    assert any(name.endswith("/LICENSE") for name in names)


def test_wheel_asks_for_the_base_dependencies(wheel: Path) -> None:
    asked = [Requirement(line) for line in requirements(wheel)]
    assert {canonicalize_name(one.name) for one in asked if "extra" not in str(one.marker)} == BASE_DEPENDENCIES


def test_bare_environment_is_bare(bare: Path, tmp_path: Path) -> None:
    names = [*TRAINING_ONLY, *TRAINING_CODE]
    script = (
        f"import json; from importlib.util import find_spec; print(json.dumps([n for n in {names} if find_spec(n)]))"
    )
    assert json.loads(call([str(bare / "python"), "-c", script], tmp_path)) == []


def test_public_names_work_with_base_dependencies(bare: Path, tmp_path: Path) -> None:
    script = """
import sys, torch
from mixvec import Classifier, CtcRecognizer, SpeechEncoder, SummaryMixing, encoder_config
torch.set_num_threads(1)
encoder = SpeechEncoder(encoder_config("tiny")).eval()
with torch.no_grad():
    out = encoder(torch.randn(2, 16000), torch.tensor([16000, 8000]))
assert out.frames.shape[0] == 2 and out.frames.shape[2] == encoder.dim, out.frames.shape
print(sys.modules["mixvec"].__file__)
"""
    where = call([str(bare / "python"), "-c", script], tmp_path)
    assert Path(where.strip()).is_relative_to(bare.parent)


@pytest.mark.parametrize("command", [["python", "-m", "mixvec"], ["mixvec"]], ids=["module", "script"])
def test_command_line_works_with_base_dependencies(bare: Path, tmp_path: Path, command: list[str]) -> None:
    shown = call([str(bare / command[0]), *command[1:], "--help"], tmp_path)
    assert "transcribe" in shown and "understand" in shown
