"""The one form of a model on disk: a hub folder, written whole, read strictly, never unpickled.

config.json               the architecture, the encoder's configuration, how it was trained
model.safetensors         the weights
preprocessor_config.json  what the model expects of audio
vocab.json | labels.json  a recogniser's characters, a classifier's labels
README.md                 the model card
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .atomic import whole_folder
from .card import model_card
from .config import EncoderConfig
from .encoder import Encoder, build_encoder
from .errors import UserError
from .frontend import SAMPLE_RATE_HZ
from .heads import Classifier, CtcRecognizer

Model = TypeVar("Model", bound=nn.Module)
FORMAT = 1
ENCODER = "SpeechEncoder"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")


def required_files(config: dict[str, Any]) -> list[str]:
    """The files that a complete hub folder with this ``config.json`` holds."""
    extra = {"CtcRecognizer": ["vocab.json"], "Classifier": ["labels.json"]}
    return [*FILES, *extra.get(config.get("architecture", ""), [])]


def save_folder(model: nn.Module, folder: str | Path, training: dict[str, Any] | None = None) -> None:
    """Write a complete hub folder in one step; what stood there before stays until the new one is whole.

    Args:
        model: an encoder, a ``CtcRecognizer`` or a ``Classifier``.
        training: how it came about, for ``config.json`` and the card: plain JSON values, see ``mixvec.card``.
    """
    from . import __version__

    head = isinstance(model, CtcRecognizer | Classifier)
    encoder = cast(Any, model.encoder if head else model)
    config = {
        "architecture": type(model).__name__ if head else ENCODER,
        "model_type": "mixvec",
        "format": FORMAT,
        "mixvec_version": __version__,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "encoder": asdict(encoder.config),
        "head": {"layers": cast(Any, model).layers, "dropout": cast(Any, model).dropout.p} if head else None,
        "training": training or {},
    }
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": SAMPLE_RATE_HZ,
        "feature_size": 1,
        "do_normalize": True,
        "return_attention_mask": True,
        "padding_side": "right",
        "padding_value": 0.0,
    }
    with whole_folder(folder) as new:
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        _write_json(new / "config.json", config)
        _write_json(new / "preprocessor_config.json", preprocessor)
        if isinstance(model, CtcRecognizer):
            _write_json(new / "vocab.json", {entry: i for i, entry in enumerate(model.vocabulary)})
        if isinstance(model, Classifier):
            _write_json(new / "labels.json", model.labels)
        (new / "README.md").write_text(model_card(config, sum(t.numel() for t in tensors.values())), "utf-8")


def resolve(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: a hub folder, a run directory (its ``hub/``), or a hub repository, downloaded.

    Raises:
        UserError: neither exists, or the hub cannot be reached.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path / "hub" if not (path / "config.json").exists() and (path / "hub").is_dir() else path
    name = str(name_or_path)
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"{name}: no such model folder")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: the hub has no revision {revision!r} of it") from error
    except LocalEntryNotFoundError as error:
        raise UserError(f"{name}: no such folder here, and the hub cannot be reached to look there") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{name}: no such folder here, and no such model on the hub (or it is private: log in)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{name}: the hub did not answer ({type(error).__name__}); try again later") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a hub folder that holds every file it needs.

    Raises:
        UserError: a file is missing or ``config.json`` is not one of ours.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: not a model folder: it has no config.json")
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != "mixvec":
        raise UserError(f"{folder / 'config.json'}: not a mixvec model")
    if config.get("format", 0) > FORMAT:
        raise UserError(
            f"{folder}: written by mixvec {config.get('mixvec_version')}, newer than this one: upgrade mixvec"
        )
    missing = [name for name in required_files(config) if not (folder / name).is_file() and name != "README.md"]
    if missing:
        raise UserError(f"{folder}: incomplete model folder: {', '.join(missing)} missing")
    return config


def load_model(name_or_path: str | Path, revision: str | None = None) -> Encoder | CtcRecognizer | Classifier:
    """Whatever model a hub folder or repository holds, in eval mode on the CPU.

    Raises:
        UserError: see ``SpeechEncoder.from_pretrained``.
    """
    folder = resolve(name_or_path, revision)
    config = read_config(folder)
    encoder, head = encoder_config_of(config, folder), config.get("head") or {}
    model: Any
    if config["architecture"] == "CtcRecognizer":
        vocabulary: dict[str, int] = _read_json(folder / "vocab.json")
        model = CtcRecognizer(encoder, sorted(vocabulary, key=vocabulary.__getitem__), **head)
    elif config["architecture"] == "Classifier":
        model = Classifier(encoder, _read_json(folder / "labels.json"), **head)
    elif config["architecture"] == ENCODER:
        model = build_encoder(encoder)
    else:
        raise UserError(f"{folder / 'config.json'}: unknown architecture {config['architecture']!r}")
    load_tensors(model, read_tensors(folder), folder)
    return cast("Encoder | CtcRecognizer | Classifier", model.eval())


def load_as(cls: type[Model], name_or_path: str | Path, revision: str | None = None) -> Model:
    """``load_model``, refusing another architecture than ``cls``.

    Raises:
        UserError: the folder holds another kind of model.
    """
    model = load_model(name_or_path, revision)
    if not isinstance(model, cls):
        task = {"CtcRecognizer": "asr", "Classifier": "intent"}[cls.__name__]
        raise UserError(
            f"{name_or_path}: a {type(model).__name__}, not a {cls.__name__}; fine-tune it with task={task}"
        )
    return model


def load_encoder(name_or_path: str | Path, revision: str | None = None) -> Encoder:
    """The encoder of any hub folder or repository, a fine-tuned one's too, in eval mode."""
    model = load_model(name_or_path, revision)
    return model.encoder if isinstance(model, CtcRecognizer | Classifier) else model


def encoder_config_of(config: dict[str, Any], folder: Path) -> EncoderConfig:
    """The encoder's configuration out of ``config.json``.

    Raises:
        UserError: an unknown key or an impossible value, which it names.
    """
    values: dict[str, Any] = config.get("encoder", {})
    unknown = set(values) - {field.name for field in fields(EncoderConfig)}
    if unknown:
        raise UserError(f"{folder / 'config.json'}: unknown encoder key {', '.join(sorted(unknown))}: upgrade mixvec")
    try:
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return EncoderConfig(**(values | lists))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a hub folder.

    Raises:
        UserError: the file is truncated or not safetensors.
    """
    try:
        return load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / 'model.safetensors'}: damaged or not safetensors ({error})") from error


def load_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Put ``tensors`` into ``model``; every name and shape must agree.

    Raises:
        UserError: names each tensor that is missing, extra or misshapen (the first eight of each).
    """
    own = model.state_dict()
    faults = {
        "missing": [name for name in own if name not in tensors],
        "extra": [name for name in tensors if name not in own],
        "misshapen": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(
            f"{len(names)} {word}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
            for word, names in faults.items()
            if names
        )
        raise UserError(f"{source}: the weights do not fit the model: {listed}")
    model.load_state_dict(tensors)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + os.linesep, encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error})") from error
