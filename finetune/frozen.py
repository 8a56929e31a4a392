"""Frozen encoders: when the encoder is frozen, how it encodes, and a cache of its frames on disk.

An encoder that is frozen for the whole run, with nothing random before it, encodes each utterance by itself. An
utterance then gives the same frames in any batch, so frames from the cache equal those computed again, bit for bit.

    CACHE/<encoder, layers, precision>/<audio>.safetensors     frames (L', T, D): of all layers, or of the last one

The names are hashes of the encoder's weights and of the decoded audio, so any head, run or corpus finds the frames that
it can use, and no others.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mixvec import UserError
from mixvec.atomic import whole_file
from mixvec.model.protocol import EncoderOutput

from .batch import LabelledBatch
from .config import FinetuneConfig


def is_frozen(config: FinetuneConfig, progress: float) -> bool:
    """Whether the encoder is frozen at a fraction ``progress`` of the run. From scratch: always or never."""
    kept = config.pretrained is not None and config.baseline is None
    return progress <= config.freeze if kept else config.freeze == 1.0 or config.baseline in ("log-mel", "random")


def encodes_alone(config: FinetuneConfig, *, training: bool) -> bool:
    """Whether the encoder is frozen for the whole run, with nothing random before it."""
    waveform, features = config.data.augment, config.augment
    random = bool(waveform.speed) or waveform.reverb is not None or waveform.noise is not None or waveform.mix_prob > 0
    random = random or features.time_prob > 0 or features.channel_prob > 0 or config.crop_s is not None
    return is_frozen(config, 1.0) and not (training and random)


def encode(config: FinetuneConfig, model: Any, batch: LabelledBatch, frozen: bool) -> EncoderOutput:
    """Encode a batch with its masks, of which an evaluation has none; without gradients where the encoder is frozen."""
    if encodes_alone(config, training=model.training):
        return frozen_frames(config, model, batch)
    with torch.set_grad_enabled(not frozen):
        features, lengths = model.encoder.features(batch.waveforms, batch.lengths)
        features = features * batch.channels.unsqueeze(1).to(features.dtype)
        return model.encoder.encode(  # type: ignore[no-any-return]
            features, lengths, batch.time_mask, every_layer=model.every_layer
        )


@torch.no_grad()
def frozen_frames(config: FinetuneConfig, model: Any, batch: LabelledBatch) -> EncoderOutput:
    """The frames of a frozen encoder in fp32, each utterance computed by itself or taken from the cache.

    Raises:
        UserError: the cache cannot be written.
    """
    encoder, device = model.encoder, batch.waveforms.device
    folder = cache_folder(config, encoder, model.layers, device.type) if config.cache.dir is not None else None
    rows = []
    for waveform, length in zip(batch.waveforms, batch.lengths, strict=True):
        waveform = waveform[:length]
        file = _file_of(folder, waveform) if folder is not None else None
        frames = _cached(file) if file is not None else None
        if frames is None:
            made = encoder(waveform.unsqueeze(0), length.unsqueeze(0), every_layer=model.every_layer)
            frames = torch.stack(made.layers)[:, 0].float()  # (L', T, D)
            if file is not None:
                frames = _write(file, frames, config)
        rows.append(frames.to(device).float())
    lengths = torch.tensor([row.shape[1] for row in rows], device=device)
    layers = list(pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True).unbind(2))  # each (B, T, D)
    return EncoderOutput(layers[-1], lengths, layers)


def _file_of(folder: Path, waveform: Tensor) -> Path:
    name = hashlib.blake2b(waveform.float().cpu().numpy().tobytes(), digest_size=16).hexdigest()
    return folder / name[:2] / f"{name[2:]}.safetensors"


def _cached(file: Path) -> Tensor | None:
    """The cached frames in ``file``; None where there are none, or where it is damaged and must be written again."""
    try:
        return load_file(file).get("frames")
    except (FileNotFoundError, SafetensorError):
        return None


def _write(file: Path, frames: Tensor, config: FinetuneConfig) -> Tensor:
    kept = frames.to(torch.float16 if config.cache.dtype == "fp16" else torch.float32)
    try:
        with whole_file(file) as new:
            save_file({"frames": kept.cpu().contiguous()}, new)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cache.dir={config.cache.dir}: cannot be written ({error})") from error
    return kept


def cache_folder(config: FinetuneConfig, encoder: Any, layers: str, device: str) -> Path:
    """The cache folder of this encoder, named by a hash of its weights and of all else that changes the frames."""
    mixed = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "fp32"
    own = hashlib.sha256(" ".join([_weights_hash(encoder), layers, config.cache.dtype, device, mixed]).encode())
    return Path(str(config.cache.dir)).expanduser() / own.hexdigest()[:16]


@lru_cache(maxsize=1)
def _weights_hash(encoder: Any) -> str:
    """A hash of an encoder that stays frozen, computed once."""
    state = hashlib.sha256(json.dumps(encoder.settings() | {"dropout": 0.0, "layer_drop": 0.0}).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        state.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return state.hexdigest()


def check_cache(config: FinetuneConfig) -> None:
    """
    Raises:
        UserError: ``cache.dir`` is set, and the run's frames cannot be cached.
    """
    if config.cache.dir is not None and not encodes_alone(config, training=True):
        raise UserError(
            "cache.dir keeps the frames of a frozen encoder with nothing random before it: set freeze=1, "
            "augment.time_prob=0 and augment.channel_prob=0, no data.augment, speaker.crop_s=null; or unset cache.dir"
        )
