"""mixvec: speech encoders with SummaryMixing, linear in time, and the heads that recognise and understand."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from .audio import read_audio
from .auto import register as _register
from .build import build_encoder
from .errors import UserError
from .kernels.cpu import branches as _cpu_branches
from .model import (
    Classifier,
    CtcRecognizer,
    HybridRecognizer,
    HybridTagger,
    ProbeClassifier,
    SlotTagger,
    SpeakerEmbedder,
)
from .model.config import SIZES, EncoderConfig, encoder_config
from .model.encoder import SpeechEncoder
from .model.mixing import SelfAttention, SummaryMixing
from .model.pretrained import Pretrained
from .model.protocol import Encoder, EncoderOutput
from .model.waveforms import Sound
from .resample import resample
from .version import __version__

__all__ = [
    "SIZES",
    "Classifier",
    "CtcRecognizer",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "HybridRecognizer",
    "HybridTagger",
    "ProbeClassifier",
    "SelfAttention",
    "SlotTagger",
    "SpeakerEmbedder",
    "SpeechEncoder",
    "SummaryMixing",
    "UserError",
    "__version__",
    "build_encoder",
    "encoder_config",
]


def _load(cls: type[Any], *where: Any) -> Any:
    from .hub import load_as  # only now: the hub client takes half a second to import

    return load_as(cls, *where)


def _save(model: Any, folder: str | Path) -> None:
    from .hub import save_folder

    save_folder(model, folder)


def _read(path: str | PathLike[str]) -> Tensor:
    return read_audio(Path(path))


# The network knows neither disks nor kernels; the package provides both.
Pretrained.loader, Pretrained.saver = staticmethod(_load), staticmethod(_save)
Sound.reader, Sound.resampler = staticmethod(_read), staticmethod(resample)
SummaryMixing.default_branches = _cpu_branches
_register()
