"""What importing mixvec costs and needs: no torch._dynamo, no fairseq2; and the model files in transformers' loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import check_imports, get_imports, get_relative_import_files

MODEL = Path(__file__).resolve().parents[2] / "mixvec" / "model"
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq2", "fairseq2n"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", sorted(path.name for path in MODEL.glob("*.py")))
def test_transformers_finds_every_file_that_a_model_file_needs(name: str) -> None:
    found = get_relative_import_files(MODEL / name)
    assert {Path(file).parent for file in found} <= {MODEL} and all(Path(file).is_file() for file in found)
    assert set(check_imports(MODEL / name)) <= {Path(file).stem for file in found}
    needed = set(get_imports(MODEL / name)) - set(sys.stdlib_module_names)
    assert needed <= {"torch", "numpy", "transformers"}, "all that a published folder may ask for"


def test_importing_mixvec_loads_nothing_that_takes_long() -> None:
    """Beyond torch: no compiler, no hub client, no reader of audio, no other framework."""
    heavy = (
        "torch._dynamo", "torch._inductor", "triton", "torchaudio", "transformers", "huggingface_hub", "fairseq2",
        "soundfile", "onnx", "onnxruntime", "datasets", "accelerate", "scipy", "sklearn",
    )  # fmt: skip
    code = "import sys, torch; before = set(sys.modules); import mixvec; new = set(sys.modules) - before"
    assert run(f"{code}; print([name for name in {heavy} if name in new])") == "[]"


@pytest.mark.slow
def test_everything_but_wav2vec2_works_without_fairseq2() -> None:
    """Both applications import, every other kind of encoder is built, and the error names the extra."""
    code = """
import finetune.train, pretrain.train, mixvec
from mixvec import SIZES, UserError, build_encoder
build_encoder(SIZES["tiny"])
try:
    build_encoder(SIZES["wav2vec2-base"])
except UserError as error:
    print(error)
"""
    assert "mixvec[fairseq2]" in run(BLOCKED + code)
