"""How a batch is encoded, and a cache on disk of the frames of a frozen encoder.

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


def encode(config: FinetuneConfig, model: Any, batch: LabelledBatch, frozen: bool) -> EncoderOutput:
    """Encode a batch with its masks, of which an evaluation has none; without gradients where the encoder is frozen."""
    if config.encodes_alone(training=model.training):
        return frozen_frames(config, model, batch)
    with torch.set_grad_enabled(not frozen):
        features, lengths = model.encoder.features(batch.waveforms, batch.lengths)
        features = features * batch.channels.unsqueeze(1).to(features.dtype)
        return model.encoder.encode(  # type: ignore[no-any-return]
            features, lengths, batch.time_mask, every_layer=model.every_layer
        )


@torch.no_grad()
def frozen_frames(config: FinetuneConfig, model: Any, batch: LabelledBatch) -> EncoderOutput:
    """The frames of a frozen encoder in fp32, each utterance computed by itself or taken from the cache."""
    device = batch.waveforms.device
    folder = cache_folder(config, model, device.type) if config.cache.dir is not None else None
    rows = []
    for waveform, length in zip(batch.waveforms, batch.lengths, strict=True):
        name = hashlib.blake2b(waveform[:length].float().cpu().numpy().tobytes(), digest_size=16).hexdigest()
        file = folder / name[:2] / f"{name[2:]}.safetensors" if folder is not None else None
        frames = _cached(file) if file is not None else None
        if frames is None:
            made = model.encoder(waveform[:length].unsqueeze(0), length.unsqueeze(0), every_layer=model.every_layer)
            frames = torch.stack(made.layers)[:, 0].float()  # (L', T, D)
            if file is not None:
                frames = _write(file, frames, config)
        rows.append(frames.to(device).float())
    lengths = torch.tensor([row.shape[1] for row in rows], device=device)
    layers = list(pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True).unbind(2))  # each (B, T, D)
    return EncoderOutput(layers[-1], lengths, layers)


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


def cache_folder(config: FinetuneConfig, model: Any, device: str) -> Path:
    """The cache folder of this encoder, named by a hash of its weights and of all else that changes the frames."""
    mixed = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "fp32"
    own = " ".join([_weights_hash(model.encoder), model.layers, config.cache.dtype, device, mixed])
    return Path(str(config.cache.dir)).expanduser() / hashlib.sha256(own.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _weights_hash(encoder: Any) -> str:
    """A hash of an encoder that stays frozen, computed once."""
    state = hashlib.sha256(json.dumps(encoder.settings() | {"dropout": 0.0, "layer_drop": 0.0}).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        state.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return state.hexdigest()
