"""wav2vec 2.0 of transformers, and its Conformer form, with their own loss.

Masks and negatives are drawn before, as its collator does it. It quantizes and contrasts every frame, and then drops
those that are not masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForPreTraining,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
)
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from .measure import Work
from .ours import noise, parameters, precision, training_step

TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
       "conv_dim": (32,) * 7}  # fmt: skip
CONFORMER = {"num_attention_heads": 8, "hidden_act": "swish"}
"""Its other defaults are our ``base``: width 768, 12 blocks, feed-forward 3072, kernel 31, 50 frames/s."""


def update(toy: bool, clips: int, length_s: float, device: str) -> Work:
    """Whole updates of wav2vec 2.0 BASE."""
    config: Any = Wav2Vec2Config
    return _update(Wav2Vec2ForPreTraining(config(**_shape(toy))), clips, length_s, device)


def update_conformer(toy: bool, clips: int, length_s: float, device: str) -> Work:
    """Whole updates of its Conformer at the width and depth of our ``base``."""
    config: Any = Wav2Vec2ConformerConfig
    return _update(Wav2Vec2ConformerForPreTraining(config(**(CONFORMER | _shape(toy)))), clips, length_s, device)


def _update(model: Any, clips: int, length_s: float, device: str) -> Work:
    model.to(device).train()
    audio = noise(clips, length_s, device)
    frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
    hidden = _compute_mask_indices((clips, frames), 0.65, 10)
    negatives = _sample_negative_indices((clips, frames), model.config.num_negatives, hidden)
    mask = torch.from_numpy(hidden).to(device)
    others = torch.from_numpy(negatives).long().to(device)

    def loss() -> Tensor:
        output = model(audio, mask_time_indices=mask, sampled_negative_indices=others)
        return output.loss / mask.sum()  # type: ignore[no-any-return]

    return Work(training_step(model, loss, device), parameters(model))


def inference(toy: bool, length_s: float, device: str) -> Work:
    """Waveforms to the best token of each frame, BASE."""
    config: Any = Wav2Vec2Config
    model: Any = Wav2Vec2ForCTC(config(vocab_size=32, **_shape(toy)))
    model.to(device).eval()
    audio = noise(1, length_s, device)

    def step() -> None:
        with precision(device), torch.inference_mode():
            model(audio).logits.argmax(-1).cpu()

    return Work(step, parameters(model))


def _shape(toy: bool) -> dict[str, Any]:
    return {"layerdrop": 0.0} | (TOY if toy else {})
