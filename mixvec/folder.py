"""A hub folder as it is written: one form of a model on disk, for mixvec and for transformers.

config.json               the architecture, the encoder's configuration, how it was trained, what transformers needs
model.safetensors         the weights
preprocessor_config.json  what the model expects of audio
vocab.json | labels.json | speakers.json  what the head needs: a recogniser's characters, a classifier's labels
tokenizer_config.json     how transformers reads vocab.json
tokenizer.model           of subword tokens: how sentencepiece cuts a text into them
*.py                      the network and its classes in transformers, byte for byte the files of ``mixvec/model``
README.md                 the model card
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from .atomic import save_tensors, whole_folder
from .card import model_card
from .errors import UserError
from .model import HEADS, TaskModel
from .model.frontend import SAMPLE_RATE_HZ
from .model.pretrained import AUTO_MAP, ENCODER, FORMAT
from .model.protocol import Encoder
from .model.vocabulary import BLANK, PIECE_SPACE, SPACE
from .text import TOKENIZER_MODEL
from .version import __version__

CODE = Path(__file__).parent / "model"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
TOKENIZER = "tokenizer_config.json"


def code_files() -> list[str]:
    """The code files of a published folder: the model's, and all that it names, as transformers finds them."""
    found, waiting = set(), ["modeling_mixvec", "tokenization_mixvec"]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += re.findall(r"^\s*from \.(\w+) import", (CODE / f"{name}.py").read_text("utf-8"), re.MULTILINE)
    return sorted(f"{name}.py" for name in found)


def required_files(config: dict[str, Any]) -> list[str]:
    """The files that a complete hub folder with this ``config.json`` holds."""
    head = HEADS.get(config["architecture"])
    own = [head.stored_as] if head else []
    if "auto_map" in config:
        own += [TOKENIZER] if own == ["vocab.json"] else []
        own += code_files()
    return [*FILES, *own]


def known_files() -> set[str]:
    """The names of all files that any hub folder of ours holds."""
    return {*FILES, TOKENIZER, TOKENIZER_MODEL, *(head.stored_as for head in HEADS.values()), *code_files()}


def save_folder(
    model: nn.Module,
    folder: str | Path,
    training: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
    name: str = "PATH_OR_NAME",
    tokenizer: Path | None = None,
) -> None:
    """Write a complete hub folder in one step; the previous content stays until the new folder is complete.

    Args:
        model: an ``Encoder``, or one with a head (``TaskModel``).
        training: how it came about, for ``config.json`` and the card: plain JSON values, see ``mixvec.card``.
        weights: to write in place of the model's own, which may have moved on.
        name: what the card's examples load, a path or ``org/name``.
        tokenizer: the sentencepiece model of subword tokens, by which an n-gram's words are tokenized.

    Raises:
        UserError: ``folder`` holds files and no model of ours; they would be lost.
    """
    check_replaceable(Path(folder))
    head = model if isinstance(model, TaskModel) else None
    encoder = head.encoder if head else cast(Encoder, model)
    config: dict[str, Any] = {
        "architecture": type(model).__name__ if head else ENCODER,
        "model_type": "mixvec",
        "format": FORMAT,
        "mixvec_version": __version__,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "encoder": encoder.settings(),
        "head": head.settings() if head else None,
        "training": training or {},
    }
    with whole_folder(folder) as new:
        tensors = model.state_dict() if weights is None else weights
        save_tensors(tensors, new / "model.safetensors")
        write_json(new / "preprocessor_config.json", _preprocessor(head))
        if head:
            write_json(new / head.stored_as, head.stored())
        if config["encoder"].get("kind") == "mixvec":
            config |= _for_transformers(head)
            for file in code_files():
                shutil.copyfile(CODE / file, new / file)
            if head and head.stored_as == "vocab.json":
                write_json(new / TOKENIZER, _tokenizer(head.stored()))
        if tokenizer is not None:
            shutil.copyfile(tokenizer, new / TOKENIZER_MODEL)
        config["sha256"] = {path.name: sha256(path) for path in sorted(new.iterdir())}
        write_json(new / "config.json", config)
        parameters = sum(t.numel() for t in tensors.values())
        (new / "README.md").write_text(model_card(config, parameters, type(head) if head else None, name), "utf-8")
        shutil.copymode(new / "config.json", new / "model.safetensors")  # safetensors writes for the owner's eyes only


def _for_transformers(head: TaskModel | None) -> dict[str, Any]:
    """The keys of ``config.json`` that transformers reads."""
    auto = head.auto if head else "AutoModel"
    keys: dict[str, Any] = {"auto_map": AUTO_MAP, "pad_token_id": 0, "dtype": "float32"}
    if auto:
        keys["architectures"] = [AUTO_MAP[auto].split(".")[1]]
    stored = head.stored() if head else None
    if isinstance(stored, dict):
        keys["vocab_size"] = len(stored)
    elif stored:
        keys["id2label"] = {str(number): name for number, name in enumerate(stored)}
        keys["label2id"] = {name: number for number, name in enumerate(stored)}
    return keys


def _preprocessor(head: TaskModel | None) -> dict[str, Any]:
    """The model normalises waveforms itself, over each utterance's own samples."""
    processor = {"processor_class": "Wav2Vec2Processor"} if head and head.stored_as == "vocab.json" else {}
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": SAMPLE_RATE_HZ,
        "feature_size": 1,
        "do_normalize": False,
        "return_attention_mask": True,
        "padding_side": "right",
        "padding_value": 0.0,
    } | processor


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, Any]:
    """Characters outside the vocabulary become blanks, which labels must leave out, as mixvec does."""
    pieces = SPACE not in vocabulary
    own = {"auto_map": {"AutoTokenizer": ["tokenization_mixvec.MixvecTokenizer", None]}} if pieces else {}
    return {
        "tokenizer_class": "MixvecTokenizer" if pieces else "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        "pad_token": BLANK,
        "unk_token": BLANK,
        "bos_token": None,
        "eos_token": None,
        "word_delimiter_token": PIECE_SPACE if pieces else SPACE,
        "do_lower_case": False,
    } | own


def check_replaceable(folder: Path) -> None:
    """See that a model may be written to ``folder``: it is not there, is empty, or holds a model of ours.

    Raises:
        UserError: it is a file, or holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(config, dict) or config.get("model_type") != "mixvec":
        raise UserError(f"{folder}: holds files and no mixvec model; choose a new or an empty folder")


def sha256(*paths: Path) -> str:
    """The hexadecimal sum of files, one after another; read in pieces of a mebibyte."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                total.update(piece)
    return total.hexdigest()


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """
    Raises:
        UserError: it is not JSON, or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error})") from error
