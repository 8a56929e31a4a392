"""wav2vec 2.0 of fairseq2: its model, its quantizer, its distractors, its loss.

Its quantizer compiles a function inside ``forward``. That is switched off: it takes half a minute, needs a compiler,
and would be compared with models that are not compiled. It draws masks and distractors in ``forward``, which is timed.
"""

from __future__ import annotations

import soundfile  # noqa: F401  (before fairseq2, which finds libsndfile only once this has loaded it)
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from torch import Tensor

from .measure import Work
from .ours import noise, parameters, training_step

torch.compiler.set_stance("force_eager")


def update(toy: bool, clips: int, length_s: float, device: str) -> Work:
    """Whole updates of BASE."""
    encoder = Wav2Vec2EncoderConfig(layer_drop_p=0.0)
    config = Wav2Vec2Config(encoder_config=encoder, max_temporal_mask_prob=0.65, temporal_mask_span_len=10)
    if toy:
        encoder.model_dim, encoder.feature_dim, encoder.ffn_inner_dim = 32, 32, 64
        encoder.num_encoder_layers, encoder.num_encoder_attn_heads = 2, 4
        encoder.feature_extractor_layer_descs = [(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2
    model = create_wav2vec2_model(config).to(device).train()
    audio = noise(clips, length_s, device)

    def loss() -> Tensor:
        found, output = model(audio, BatchLayout.of(audio))
        mean: Tensor = found.aggregate / output.num_targets
        return mean

    return Work(training_step(model, loss, device), f"{parameters(model)}; its compile in forward is off")
