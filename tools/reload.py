"""Load a model in a process that has the base dependencies alone, and write its outputs.

    python -I tools/reload.py PARENT FOLDER OUT.safetensors [ALLOWED ...]     # tools.publish runs it

PARENT is the folder that contains mixvec, ALLOWED are packages beyond the base that may be imported.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

BLOCKED = (
    *("fairseq2", "fairseq2n", "accelerate", "datasets", "omegaconf", "transformers", "tensorboard", "jiwer"),
    *("sklearn", "sentencepiece", "flashlight", "pretrain", "finetune", "tools", "tests"),
)
SECONDS = 1.5
RATE_HZ = 16_000


def outputs(folder: Path) -> dict[str, Tensor]:
    """The outputs of the model in ``folder`` for a fixed batch of two sweeps, one shorter, on one thread of the CPU.

    Raises:
        UserError: the folder holds no model that can be loaded.
    """
    from mixvec.hub import load_model

    model = load_model(folder)
    time_s = torch.arange(round(SECONDS * RATE_HZ)) / RATE_HZ  # (S,)
    sweep = 0.5 * torch.sin(2 * math.pi * (150 * time_s + 900 * time_s.square()))
    lengths = torch.tensor([len(sweep), len(sweep) // 2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            given = model(torch.stack([sweep, sweep]), lengths)
    finally:
        torch.set_num_threads(threads)
    tensors: dict[str, Tensor] = {}
    for number, value in enumerate(given if isinstance(given, tuple) else (given,)):
        for layer, tensor in enumerate(value if isinstance(value, list) else [value]):
            tensors[f"{number}.{layer}"] = tensor.clone()
    return tensors


def main() -> None:
    parent, folder, out, *allowed = sys.argv[1:]
    for name in BLOCKED:
        if name not in allowed:
            sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    sys.path.insert(0, parent)
    from mixvec.errors import run_cli

    run_cli(lambda: save_file(outputs(Path(folder)), out))


if __name__ == "__main__":
    main()
