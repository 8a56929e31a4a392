"""fairseq2's own wav2vec 2.0: its model, its quantizer, its distractors, its loss.

Its quantizer compiles a function inside ``forward``. That is switched off: it takes half a minute, needs a compiler,
and would be compared with what is not compiled. It draws masks and distractors in ``forward``, and so they are timed.
"""

from __future__ import annotations

import soundfile  # noqa: F401  (before fairseq2, which finds libsndfile only once this has loaded it)
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.models.wav2vec2.model import Wav2Vec2Features, Wav2Vec2Model
from fairseq2.nn import BatchLayout
from torch import Tensor

from .cases import Case, Work
from .work import (
    MASK_PROB,
    MASK_SPAN_FRAMES,
    TOY_DISTRACTORS,
    backward,
    encoder_outputs,
    masks,
    size,
    updates,
    waveforms,
)

torch.compiler.set_stance("force_eager")
COMPILE_OFF = "its compile in forward is off"


def objective(case: Case, variant: str) -> Work:
    """From encoder output and features to the loss."""
    config = _config(case)
    config.encoder_config.num_encoder_layers = 1
    model = create_wav2vec2_model(config)
    model.encoder = model.encoder_frontend = None  # their outputs are given
    model.to(case.device).train()
    hidden, features = encoder_outputs(case, config.encoder_config.model_dim, config.encoder_config.feature_dim)
    mask = torch.from_numpy(masks(*hidden.shape[:2])).to(case.device)
    layout = BatchLayout.of(hidden)

    def loss() -> Tensor:
        targets = model.masker.extract_masked_elements(features, mask)
        output = model.quantize_and_contrast(Wav2Vec2Features(hidden, layout, targets, mask, features))
        found = model.compute_loss(output, diversity_weight=0.1, features_penalty_weight=0.0)
        return found.aggregate / output.num_targets  # type: ignore[no-any-return]

    return Work(backward(case, loss, [hidden, features, *model.parameters()]), COMPILE_OFF)


def update(case: Case, variant: str) -> Work:
    """Whole updates of ``Wav2Vec2Model`` BASE with its own loss."""
    model: Wav2Vec2Model = create_wav2vec2_model(_config(case)).to(case.device).train()

    def loss(audio: Tensor) -> Tensor:
        found, output = model(audio, BatchLayout.of(audio))
        return found.aggregate / output.num_targets  # type: ignore[no-any-return]

    return Work(updates(case, model, waveforms(case), loss), f"{size(model)}; {COMPILE_OFF}")


def _config(case: Case) -> Wav2Vec2Config:
    """BASE, without LayerDrop and with our mask, or a toy of it."""
    encoder = Wav2Vec2EncoderConfig(layer_drop_p=0.0)
    config = Wav2Vec2Config(
        encoder_config=encoder, max_temporal_mask_prob=MASK_PROB, temporal_mask_span_len=MASK_SPAN_FRAMES
    )
    if case.toy:
        encoder.model_dim, encoder.feature_dim, encoder.ffn_inner_dim = 32, 32, 64
        encoder.num_encoder_layers, encoder.num_encoder_attn_heads = 2, 4
        encoder.feature_extractor_layer_descs = [(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2
        config.num_distractors = TOY_DISTRACTORS
    return config
