"""What is checked of a staged model before it is published: its outputs, in mixvec and transformers, and secrets."""

from __future__ import annotations

import json
import math
import os
import re
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import get_token
from torch import Tensor

from mixvec.errors import UserError
from mixvec.hub import load_model
from mixvec.model import HEADS
from mixvec.model.frontend import SAMPLE_RATE_HZ

TOLERANCE = 2e-5
"""Largest difference between the outputs in transformers and in mixvec: of kernels on memory aligned otherwise."""
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|xox[abp]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@\"]+:[^/\s@\"]+@"
)
"""Tokens of the hub and of common services, private keys, and passwords in URLs."""


def check(source: Path, copy: Path) -> None:
    """Check that the model in ``copy`` loads and computes what the one in ``source`` does, and holds no secret.

    Raises:
        UserError: it does not, its outputs are not finite, or there is what looks like a secret.
    """
    check_secrets(copy)
    expected, found = outputs(source), outputs(copy)
    if not all(tensor.isfinite().all() for tensor in expected):
        raise UserError("the outputs of the model are not finite: its training diverged; publish an earlier one")
    if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
        raise UserError("loaded again, the model gives other outputs")
    check_in_transformers(copy, found)


def check_secrets(folder: Path) -> None:
    """
    Raises:
        UserError: a text file of the model holds what looks like a secret; it names the file and the first letters.
    """
    own = [value for value in (get_token(), os.environ.get("HF_TOKEN")) if value]
    for file in sorted({*folder.glob("*.json"), *folder.glob("*.md")}):
        text = file.read_text(encoding="utf-8")
        found = [secret for secret in own if secret in text] + SECRETS.findall(text)
        if found:
            raise UserError(f"{file.name}: holds what looks like a secret ({found[0][:6]}…); remove it from `training` "
                            "in the model's config.json")  # fmt: skip


def sweeps() -> tuple[Tensor, Tensor]:
    """A batch of two sweeps of 1.5 s (2, S), and their lengths: the second is half as long."""
    time_s = torch.arange(round(1.5 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ  # (S,)
    sweep = 0.5 * torch.sin(2 * math.pi * (150 * time_s + 900 * time_s.square()))
    return torch.stack([sweep, sweep]), torch.tensor([len(sweep), len(sweep) // 2])


def outputs(folder: Path) -> list[Tensor]:
    """The outputs of the model in ``folder`` for ``sweeps``, on one thread."""
    model, (waveforms, lengths), threads = load_model(folder), sweeps(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            given = model(waveforms, lengths)
    finally:
        torch.set_num_threads(threads)
    values = given if isinstance(given, tuple) else (given,)
    return [tensor for value in values for tensor in (value if isinstance(value, list) else [value])]


def check_in_transformers(folder: Path, expected: list[Tensor]) -> None:
    """Compare with ``outputs`` what the classes of transformers compute, whose code the folder holds byte for byte.

    Raises:
        UserError: transformers is installed, and cannot load the folder or computes something else.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "architectures" not in config or find_spec("transformers") is None:
        return
    import transformers

    version, head = f"transformers {transformers.__version__}", HEADS.get(config["architecture"])
    waveforms, lengths = sweeps()
    mask = (torch.arange(waveforms.shape[1]) < lengths.unsqueeze(1)).long()
    try:
        model = getattr(transformers, (head.auto if head else None) or "AutoModel").from_pretrained(folder).eval()
        with torch.inference_mode():
            made = model(waveforms, attention_mask=mask)
    except (ValueError, OSError, RuntimeError, TypeError, ImportError) as error:
        raise UserError(f"{version} cannot load the model: {error}") from error
    found, ours = made.get("embeddings", made.get("logits", made.get("last_hidden_state"))), expected[0]
    if head and head.stored_as == "vocab.json":  # what is behind an utterance's own frames is a blank there
        own = torch.arange(ours.shape[1]) < expected[1].unsqueeze(1)  # (B, T)
        found, ours = found[own], ours[own]
    worst = float((found - ours).abs().max())
    if not worst <= TOLERANCE:
        raise UserError(f"in {version} the model gives other outputs, by {worst:.2g}")
