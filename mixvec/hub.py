"""The one form of a model on disk: a hub folder, written whole, read strictly, never unpickled.

config.json               the architecture, the encoder's configuration, how it was trained
model.safetensors         the weights
preprocessor_config.json  what the model expects of audio
vocab.json | labels.json | speakers.json  what the head needs: a recogniser's characters, a classifier's labels
README.md                 the model card
"""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copymode
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import wav2vec2_weights
from .atomic import save_tensors, whole_folder
from .build import build_encoder
from .card import model_card
from .errors import UserError
from .locate import resolve
from .model import HEADS, TaskModel
from .model.config import EncoderConfig
from .model.encoder import SpeechEncoder
from .model.frontend import SAMPLE_RATE_HZ
from .model.protocol import Encoder
from .model.vocabulary import MalformedError
from .transformers_encoder import TransformersEncoder
from .version import __version__

Model = TypeVar("Model", bound=nn.Module)
FORMAT = 2
"""In format 1, of mixvec 0.1.0, ``head_norm`` of heads is called ``norm``."""
ENCODER = "SpeechEncoder"
READ = ("mixvec", "wav2vec2")
"""The ``model_type`` of the models that mixvec builds itself."""
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
OWN_FILES = {ENCODER: (), **{name: (head.stored_as,) for name, head in HEADS.items()}}


def required_files(config: dict[str, Any]) -> list[str]:
    """The files that a complete hub folder with this ``config.json`` holds."""
    return [*FILES, *OWN_FILES[config["architecture"]]]


def save_folder(
    model: nn.Module,
    folder: str | Path,
    training: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a complete hub folder in one step; the previous content stays until the new folder is complete.

    Args:
        model: an ``Encoder``, or one with a head (``TaskModel``).
        training: how it came about, for ``config.json`` and the card: plain JSON values, see ``mixvec.card``.
        weights: to write in place of the model's own, which may have moved on.

    Raises:
        UserError: ``folder`` holds files and no model of ours; they would be lost.
    """
    check_replaceable(Path(folder))
    head = model if isinstance(model, TaskModel) else None
    encoder = head.encoder if head else cast(Encoder, model)
    config = {
        "architecture": type(model).__name__ if head else ENCODER,
        "model_type": "mixvec",
        "format": FORMAT,
        "mixvec_version": __version__,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "encoder": encoder.settings(),
        "head": head.settings() if head else None,
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
        tensors = model.state_dict() if weights is None else weights
        save_tensors(tensors, new / "model.safetensors")
        _write_json(new / "config.json", config)
        _write_json(new / "preprocessor_config.json", preprocessor)
        copymode(new / "config.json", new / "model.safetensors")  # safetensors writes for the owner's eyes only
        if head:
            _write_json(new / head.stored_as, head.stored())
        parameters = sum(t.numel() for t in tensors.values())
        (new / "README.md").write_text(model_card(config, parameters, type(head) if head else None), "utf-8")


def check_replaceable(folder: Path) -> None:
    """See that a model may be written to ``folder``: it is not there, is empty, or holds a model of ours.

    Raises:
        UserError: it is a file, or holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(config, dict) or config.get("model_type") != "mixvec":
        raise UserError(f"{folder}: holds files and no mixvec model; choose a new or an empty folder")


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a hub folder that holds every file it needs.

    Raises:
        UserError: a file is missing or ``config.json`` is not one of ours.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: not a model folder: it has no config.json, nor a hub/ that has one")
    config = _read_json(file)
    if not isinstance(config, dict) or config.get("model_type") != "mixvec":
        raise UserError(f"{file}: not a mixvec model")
    written = config.get("format")
    if not isinstance(written, int) or written > FORMAT:
        raise UserError(
            f"{folder}: format {written!r}, written by mixvec {config.get('mixvec_version')}; this one reads up to "
            f"{FORMAT}: upgrade mixvec"
        )
    if config.get("architecture") not in OWN_FILES:
        raise UserError(f"{file}: unknown architecture {config.get('architecture')!r}: upgrade mixvec")
    missing = [name for name in required_files(config) if not (folder / name).is_file() and name != "README.md"]
    if missing:
        raise UserError(f"{folder}: incomplete model folder: {', '.join(missing)} missing; copy or download it again")
    return config


def load_model(name_or_path: str | Path, revision: str | None = None) -> Encoder | TaskModel:
    """Whatever model a hub folder or repository holds, in eval mode on the CPU; transformers' wav2vec 2.0 too.

    Raises:
        UserError: see ``SpeechEncoder.from_pretrained``.
    """
    folder = resolve(name_or_path, revision)
    return _load_wav2vec2(folder) if _model_type(folder) == "wav2vec2" else _load(folder, read_config(folder))


def open_encoder(name_or_path: str | Path, revision: str | None = None) -> Encoder:
    """``load_encoder``, or any encoder of the wav2vec 2.0 family as transformers builds it (HuBERT, WavLM, ...)."""
    folder = resolve(name_or_path, revision)
    return load_encoder(folder) if _model_type(folder) in (None, *READ) else TransformersEncoder(folder).eval()


def _model_type(folder: Path) -> str | None:
    stored = _read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    return str(stored.get("model_type")) if isinstance(stored, dict) and "model_type" in stored else None


def _load_wav2vec2(folder: Path) -> Encoder:
    config = wav2vec2_weights.encoder_config_of(_read_json(folder / "config.json"), folder)
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder}: no model.safetensors in it, and pickled or split weights are not read; save it with "
            "transformers: Wav2Vec2Model.from_pretrained(NAME).save_pretrained(DIR, max_shard_size='100GB')"
        )
    model = build_encoder(config)
    tensors = wav2vec2_weights.rename(read_tensors(folder), large=config.front_end == "waveform")
    tensors.setdefault("mask_embedding", model.state_dict()["mask_embedding"])  # some recognisers were stored without
    load_tensors(model, tensors, folder)
    return model.eval()


def _load(folder: Path, config: dict[str, Any]) -> Encoder | TaskModel:
    head, file = HEADS.get(config["architecture"]), folder / "config.json"
    stored = _read_json(folder / head.stored_as) if head else None
    try:
        encoder = build_encoder(encoder_config_of(config, folder))
        model = head.restored(encoder, stored, config.get("head") or {}) if head else encoder
    except MalformedError as error:
        raise UserError(f"{folder / head.stored_as if head else file}: {error}") from error
    except (ValueError, TypeError) as error:  # what EncoderConfig cannot see, or an unknown key of the head
        raise UserError(f"{file}: {error}") from error
    load_tensors(model, _renamed(read_tensors(folder), head is not None and config["format"] == 1), folder)
    return model.eval()


def _renamed(tensors: dict[str, Tensor], old: bool) -> dict[str, Tensor]:
    """The tensors of a head by their names in format 2; ``old``: they are named as in format 1."""
    return {f"head_{name}" if old and name.startswith("norm.") else name: t for name, t in tensors.items()}


def load_as(cls: type[Model], name_or_path: str | Path, revision: str | None = None) -> Model:
    """``load_model``, refusing a model of another class than ``cls``; of any model where ``cls`` is SpeechEncoder, its
    encoder.

    Raises:
        UserError: the folder holds another kind of model.
    """
    if issubclass(cls, SpeechEncoder):
        encoder = load_encoder(name_or_path, revision)
        if not isinstance(encoder, cls):
            raise UserError(f"{name_or_path}: its encoder is a {type(encoder).__name__}, not a SpeechEncoder; load it "
                            "with mixvec.hub.load_encoder")  # fmt: skip
        return encoder
    folder = resolve(name_or_path, revision)
    config = read_config(folder)
    if config["architecture"] != cls.__name__:
        does = getattr(cls, "does", "it")
        raise UserError(f"{name_or_path}: a {config['architecture']}, not a {cls.__name__}; choose a model fine-tuned "
                        f"for {does}")  # fmt: skip
    return cast(Model, _load(folder, config))


def load_encoder(name_or_path: str | Path, revision: str | None = None) -> Encoder:
    """The encoder of any hub folder or repository, a fine-tuned one's too, in eval mode."""
    model = load_model(name_or_path, revision)
    return model.encoder if isinstance(model, TaskModel) else model


def encoder_config_of(config: dict[str, Any], folder: Path) -> EncoderConfig:
    """The encoder's configuration out of ``config.json``.

    Raises:
        UserError: an unknown key or an impossible value, which it names.
    """
    file, values, kinds = folder / "config.json", config.get("encoder"), get_type_hints(EncoderConfig)
    if not isinstance(values, dict):
        raise UserError(f"{file}: no encoder in it")
    if values.get("kind") == "transformers":
        raise UserError(f"{file}: encoder.kind=transformers: only transformers can build this encoder, so that the "
                        "model cannot be loaded or published; `python -m finetune` trains and scores it")  # fmt: skip
    unknown = set(values) - set(kinds)
    if unknown:
        raise UserError(f"{file}: unknown encoder key {', '.join(sorted(unknown))}: upgrade mixvec")
    for key, value in values.items():
        if not _fits(value, kinds[key]):
            raise UserError(f"{file}: encoder.{key} cannot be {value!r}")
    try:
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return EncoderConfig(**(values | lists))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is one of ``kind``: bool, int, float, a Literal, or a tuple of ints."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(type(entry) is int for entry in value)
    return type(value) is kind or (kind is float and type(value) is int)


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
        "misshapen": [f"{name} {tuple(tensors[name].shape)} for {tuple(t.shape)}" for name, t in own.items()
                      if name in tensors and tensors[name].shape != t.shape],
    }  # fmt: skip
    listed = [f"{len(names)} {word}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
              for word, names in faults.items() if names]  # fmt: skip
    if listed:
        raise UserError(f"{source}: the weights do not fit the model: {'; '.join(listed)}")
    model.load_state_dict(tensors)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error})") from error
