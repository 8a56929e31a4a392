"""Clean environments that load published models from a folder and from a hub, and compare with the golden files.

    make compat    # makes each environment below runs/compat once, with uv; ends with 1 where a model differs
    .venv/bin/python -m tests.compat "newest transformers alone"    # one of them

An environment holds what it is named after and nothing else. Each loads every golden kind of model twice: from its
folder and from a hub on loopback; then again without a network, from the cache. onnxruntime alone runs exported files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

from mixvec.hub import load_model, save_folder
from mixvec.onnx_export import export_onnx
from tests.hub_server import HubServer
from tests.mixvec.test_auto import PUBLISHED, talkative

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
MIXVEC = ("numpy", "safetensors", "soundfile")
ENVIRONMENTS = {
    "mixvec, pinned torch": ("load_mixvec.py", "torch==2.9.1", "torchaudio==2.9.1", "huggingface_hub==0.36.2", *MIXVEC),
    "mixvec, newest torch": ("load_mixvec.py", "torch", "torchaudio", "huggingface_hub", *MIXVEC),
    "transformers 4.57 alone": ("load_transformers.py", "torch==2.9.1", "transformers==4.57.6"),
    "newest transformers alone": ("load_transformers.py", "torch", "transformers"),
    "onnxruntime alone": ("load_onnx.py", "onnxruntime"),
    "fairseq2 0.8": ("load_fairseq2.py", "fairseq2==0.8.1", "torchaudio==2.9.1", "huggingface_hub==0.36.2", *MIXVEC),
    "SpeechBrain 1.1": (
        "load_speechbrain.py",
        "speechbrain==1.1.2",
        "transformers==4.57.6",
        "torch==2.9.1",
        "torchaudio==2.9.1",
    ),
}
"""The script of each environment, and what is installed."""
EXPORTED = ("encoder", "attention", "ctc", "decoder", "tagger", "classifier", "speaker", "speech")
"""The models that onnxruntime gets."""
TOLERANCE = 2e-5


def main() -> None:
    """Run the matrix and print a line for each environment."""
    failed = False
    with tempfile.TemporaryDirectory(prefix="mixvec-compat-") as folder, HubServer() as hub:
        publish(Path(folder), hub)
        for name, (script, *packages) in ENVIRONMENTS.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            if script == "load_onnx.py":
                export(Path(folder))
            python = environment(ROOT / "runs/compat" / name.replace(", ", "-").replace(" ", "-"), packages)
            for line, good in results(name, python, script, Path(folder), hub):
                print(line, flush=True)
                failed = failed or not good
    sys.exit(failed)


def environment(folder: Path, packages: list[str]) -> Path:
    """The interpreter of a virtual environment with ``packages``, made where it is not there yet."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        uv = [str(ROOT / ".venv/bin/uv")]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), *packages], check=True)
        (folder / "ready").touch()
    return python


def publish(folder: Path, hub: HubServer) -> None:
    """Write the golden models in today's format below ``folder``/models and to the hub, and one whose text is known."""
    generator = torch.Generator().manual_seed(7)
    waveform = torch.randn(30_000, generator=generator)
    save_file({"waveform": waveform}, folder / "speech.safetensors")
    for name in PUBLISHED:
        save_folder(load_model(ROOT / "tests/golden" / name), folder / "models" / name)
    save_folder(model := talkative(), folder / "models" / "speech")
    texts = model.transcribe(torch.stack([waveform, waveform]), torch.tensor([len(waveform), 9_000]))
    (folder / "speech.json").write_text(json.dumps(texts))
    constants.ENDPOINT = hub.url
    api = HfApi(endpoint=hub.url, token="hf_any")
    for model_folder in sorted((folder / "models").iterdir()):
        api.create_repo(f"org/{model_folder.name}")
        api.upload_folder(repo_id=f"org/{model_folder.name}", folder_path=model_folder)


def export(folder: Path) -> None:
    """Write published models below ``folder``/onnx, each with its input and its golden output."""
    (folder / "onnx").mkdir()
    for name in EXPORTED:
        export_onnx(folder / "models" / name, folder / "onnx" / f"{name}.onnx")
        if name == "speech":
            waveform = load_file(folder / "speech.safetensors")["waveform"]
            golden = {"waveforms": torch.stack([waveform, waveform]), "lengths": torch.tensor([len(waveform), 9_000])}
        else:
            golden = load_file(ROOT / "tests/golden" / name / "golden.safetensors")
            layers = [key for key in golden if key.startswith("layer.")]
            golden.setdefault("output", golden[f"layer.{len(layers) - 1}"])
        wanted = ("waveforms", "lengths", "frame_lengths", "output")
        kept = {key: value.numpy() for key, value in golden.items() if key in wanted}
        np.savez(folder / "onnx" / f"{name}.npz", **kept)


def results(name: str, python: Path, script: str, folder: Path, hub: HubServer) -> list[tuple[str, bool]]:
    """What an environment finds with the hub and then without, each as a line and whether all was well."""
    home, found = folder / f"home {name}", []
    for offline in (False,) if script == "load_onnx.py" else (False, True):
        code = (HERE / script).read_text()
        if script in ("load_mixvec.py", "load_fairseq2.py"):  # the package of this checkout, without its dependencies
            code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
        env |= {
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        env |= {"HF_HUB_OFFLINE": "1"} if offline else {"HF_ENDPOINT": hub.url}
        out = folder / "found.json"
        words = [str(python), "-", str(folder / "models"), str(ROOT / "tests/golden"), str(out)]
        done = subprocess.run(words, input=code, env=env, cwd="/", capture_output=True, text=True)
        how = f"{name}{', offline' if offline else ''}"
        if done.returncode:
            found.append((f"{how}: failed\n{done.stderr[-2_000:]}", False))
            continue
        told: dict[str, Any] = json.loads(out.read_text())
        worst: dict[str, float] = told.pop("worst")
        versions = ", ".join(f"{package} {version}" for package, version in told.items())
        far = {where: value for where, value in worst.items() if not value <= TOLERANCE}
        line = f"{how} ({versions}): {len(worst)} models loaded, largest difference {max(worst.values()):.1e}"
        found.append((line + (f", too far: {far}" if far else ""), not far))
    return found


if __name__ == "__main__":
    main()
