"""Models from hub folders and repositories, read strictly, never unpickled. ``mixvec.folder`` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import wav2vec2_weights
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
from .transformers_encoder import TransformersEncoder

__all__ = ["FORMAT", "check_replaceable", "load_as", "load_encoder", "load_model", "open_encoder", "read_config",
           "read_tensors", "required_files", "save_folder"]  # fmt: skip

Model = TypeVar("Model", bound=nn.Module)
READ = ("mixvec", "wav2vec2")
"""The ``model_type`` of the models that mixvec builds itself."""


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
    """Whatever model a hub folder or repository holds, in eval mode on the CPU; transformers' wav2vec 2.0 too.

    The arguments are those of ``mixvec.locate.resolve``.

    Raises:
        UserError: see ``SpeechEncoder.from_pretrained``.
    """
    folder = resolve(name_or_path, revision, token, cache_dir, local_files_only)
    return _load_wav2vec2(folder) if _model_type(folder) == "wav2vec2" else _load(folder, read_config(folder))


def open_encoder(name_or_path: str | Path, revision: str | None = None) -> Encoder:
    """``load_encoder``, or any encoder of the wav2vec 2.0 family as transformers builds it (HuBERT, WavLM, ...)."""
    folder = resolve(name_or_path, revision)
    return load_encoder(folder) if _model_type(folder) in (None, *READ) else TransformersEncoder(folder).eval()


def _model_type(folder: Path) -> str | None:
    stored = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    return str(stored.get("model_type")) if isinstance(stored, dict) and "model_type" in stored else None


def _load_wav2vec2(folder: Path) -> Encoder:
    config = wav2vec2_weights.encoder_config_of(read_json(folder / "config.json"), folder)
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
    stored = _stored(folder, config, head) if head else None
    try:
        encoder = build_encoder(encoder_config_of(config, folder))
        model = head.restored(encoder, stored, config.get("head") or {}) if head else encoder
    except MalformedError as error:
        raise UserError(f"{folder / head.stored_as if head else file}: {error}") from error
    except (ValueError, TypeError) as error:  # what EncoderConfig cannot see, or an unknown key of the head
        raise UserError(f"{file}: {error}") from error
    load_tensors(model, _renamed(read_tensors(folder), head is not None and config["format"] == 1), folder)
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
    """
    Raises:
        UserError: a file is not the one that was written with ``config.json``.
    """
    for name, recorded in (config.get("sha256") or {}).items():
        path = folder / name
        if path.parent == folder and path.is_file() and (found := sha256(path)) != recorded:
            raise UserError(f"{path}: changed since it was written: SHA-256 {found[:12]}…, not {recorded[:12]}…; copy "
                            "or download it again, or, if you meant it, remove sha256 from config.json")  # fmt: skip


def _renamed(tensors: dict[str, Tensor], old: bool) -> dict[str, Tensor]:
    """The tensors of a head by their names in format 2; ``old``: they are named as in format 1."""
    return {f"head_{name}" if old and name.startswith("norm.") else name: t for name, t in tensors.items()}


def load_as(
    cls: type[Model],
    name_or_path: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Model:
    """``load_model``, refusing a model of another class than ``cls``; of any model where ``cls`` is SpeechEncoder, its
    encoder.

    Raises:
        UserError: the folder holds another kind of model.
    """
    folder = resolve(name_or_path, revision, token, cache_dir, local_files_only)
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
    """The encoder of any hub folder or repository, a fine-tuned one's too, in eval mode; as ``load_model``."""
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
