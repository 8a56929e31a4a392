"""Models from hub folders and repositories, read strictly, never unpickled. ``mixvec.folder`` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .build import build_encoder
from .errors import UserError
from .folder import check_replaceable, read_json, required_files, save_folder, sha256
from .locate import resolve
from .model import HEADS, TaskModel
from .model.config import EncoderConfig
from .model.encoder import SpeechEncoder
from .model.pretrained import ENCODER, FORMAT
from .model.protocol import Encoder
from .model.vocabulary import MalformedError
from .transformers_encoder import build_transformers, read_transformers

__all__ = ["FORMAT", "check_replaceable", "load_as", "load_encoder", "load_model", "read_config", "read_tensors",
           "required_files", "save_folder"]  # fmt: skip

Model = TypeVar("Model", bound=nn.Module)


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a hub folder that holds every file it needs.

    Raises:
        UserError: a file is missing or ``config.json`` is not one of ours.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: not a model folder: it has no config.json, nor a hub/ that has one")
    config = read_json(file)
    if not isinstance(config, dict) or config.get("model_type") != "mixvec":
        raise UserError(f"{file}: not a mixvec model")
    written = config.get("format")
    if not isinstance(written, int) or written > FORMAT:
        raise UserError(
            f"{folder}: format {written!r}, written by mixvec {config.get('mixvec_version')}; this one reads up to "
            f"{FORMAT}: upgrade mixvec"
        )
    if config.get("architecture") not in (ENCODER, *HEADS):
        raise UserError(f"{file}: unknown architecture {config.get('architecture')!r}: upgrade mixvec")
    head = HEADS.get(config["architecture"])
    needed, foreign = ["model.safetensors"], "transformers_version" in config
    needed += [] if foreign else ["preprocessor_config.json"]  # transformers 5 writes processor_config.json
    if head and (head.stored_as == "vocab.json" or not foreign):
        needed.append(head.stored_as)  # transformers keeps labels in config.json
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: incomplete model folder: {', '.join(missing)} missing; copy or download it again")
    return config


def load_model(
    name_or_path: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Encoder | TaskModel:
    """Whatever model a hub folder or repository holds, in eval mode on the CPU.

    Of a folder that transformers wrote it is the encoder, if that is of the wav2vec 2.0 family (HuBERT, WavLM, ...).
    The arguments are those of ``mixvec.locate.resolve``.

    Raises:
        UserError: see ``SpeechEncoder.from_pretrained``.
    """
    folder = resolve(name_or_path, revision, token, cache_dir, local_files_only)
    stored = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    foreign = isinstance(stored, dict) and stored.get("model_type", "mixvec") != "mixvec"
    return read_transformers(folder).eval() if foreign else _load(folder, read_config(folder))


def _load(folder: Path, config: dict[str, Any]) -> Encoder | TaskModel:
    head, file = HEADS.get(config["architecture"]), folder / "config.json"
    stored = _stored(folder, config, head) if head else None
    try:
        values: Any = config.get("encoder")
        foreign = isinstance(values, dict) and values.get("kind") == "transformers" and "config" in values
        encoder = build_transformers(values) if foreign else build_encoder(encoder_config_of(config, folder))
        model = head.restored(encoder, stored, config.get("head") or {}) if head else encoder
    except MalformedError as error:
        raise UserError(f"{folder / head.stored_as if head else file}: {error}") from error
    except (ValueError, TypeError) as error:  # what EncoderConfig cannot see, or an unknown key of the head
        raise UserError(f"{file}: {error}") from error
    tensors = read_tensors(folder)
    load_tensors(model, format_2(tensors) if head and config["format"] == 1 else tensors, folder)
    _check_bytes(folder, config)
    return model.eval()


def _stored(folder: Path, config: dict[str, Any], head: type[TaskModel]) -> Any:
    """What the head's own file holds; of labels that transformers wrote, what ``config.json`` has."""
    file, names = folder / head.stored_as, config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    written = [names[key] for key in sorted(names, key=int)] if "transformers_version" in config else None
    if head.stored_as == "vocab.json" or written is None:
        return read_json(file)
    if file.is_file() and read_json(file) != written:
        raise UserError(f"{file}: other labels than id2label in config.json, which transformers wrote; remove one")
    return written


def _check_bytes(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a file that is not the one that was written with ``config.json``."""
    for name, recorded in (config.get("sha256") or {}).items():
        path = folder / name
        if path.parent == folder and path.is_file() and (found := sha256(path)) != recorded:
            raise UserError(f"{path}: changed since it was written: SHA-256 {found[:12]}…, not {recorded[:12]}…; copy "
                            "or download it again, or, if you meant it, remove sha256 from config.json")  # fmt: skip


def format_2(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a model with a head, stored in format 1, by their names in format 2."""
    return {f"head_{name}" if name.startswith("norm.") else name: t for name, t in tensors.items()}


def load_as(cls: type[Model], name_or_path: str | Path, *where: Any) -> Model:
    """``load_model``, refusing a model of another class than ``cls``; where that is SpeechEncoder, any model's encoder.

    Raises:
        UserError: the folder holds another kind of model.
    """
    folder = resolve(name_or_path, *where)
    if issubclass(cls, SpeechEncoder):
        encoder = load_encoder(folder)
        if not isinstance(encoder, cls):
            raise UserError(f"{name_or_path}: its encoder is a {type(encoder).__name__}, not a SpeechEncoder; load it "
                            "with mixvec.hub.load_encoder")  # fmt: skip
        return encoder
    config = read_config(folder)
    if config["architecture"] != cls.__name__:
        does = getattr(cls, "does", "it")
        raise UserError(f"{name_or_path}: a {config['architecture']}, not a {cls.__name__}; choose a model fine-tuned "
                        f"for {does}")  # fmt: skip
    return cast(Model, _load(folder, config))


def load_encoder(
    name_or_path: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Encoder:
    """The encoder of the model that ``load_model`` loads."""
    model = load_model(name_or_path, revision, token, cache_dir, local_files_only)
    return model.encoder if isinstance(model, TaskModel) else model


def encoder_config_of(config: dict[str, Any], folder: Path) -> EncoderConfig:
    """The encoder's configuration out of ``config.json``.

    Raises:
        UserError: an unknown key or an impossible value, which it names.
    """
    file, values, kinds = folder / "config.json", config.get("encoder"), get_type_hints(EncoderConfig)
    if not isinstance(values, dict):
        raise UserError(f"{file}: no encoder in it")
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
