"""wav2vec 2.0 of other frameworks in pretraining: their models, their losses, at BASE or a toy's shape.

transformers' masks and negatives are drawn before, as its collator does it; it quantizes and contrasts every frame and
then drops those that are not masked. fairseq2 draws them in ``forward``, where they are timed; a function that it
compiles there is not compiled here, since the models beside it are not either.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .measure import Work
from .ours import noise, parameters, training_step

Kind = Literal["Wav2Vec2", "Wav2Vec2Conformer"]
TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
       "conv_dim": (32,) * 7}  # fmt: skip
CONFORMER = {"num_attention_heads": 8, "hidden_act": "swish"}
"""Its other defaults are our ``base``: width 768, 12 blocks, feed-forward 3072, kernel 31, 50 frames/s."""


def transformers(kind: Kind, toy: bool, clips: int, length_s: float, device: str) -> Work:
    """Whole updates of transformers' wav2vec 2.0 BASE, or of its Conformer at the width and depth of our ``base``."""
    import transformers
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    shape = {"layerdrop": 0.0} | (CONFORMER if kind == "Wav2Vec2Conformer" else {}) | (TOY if toy else {})
    config: Any = getattr(transformers, f"{kind}Config")(**shape)
    model: Any = getattr(transformers, f"{kind}ForPreTraining")(config).to(device).train()
    audio = noise(clips, length_s, device)
    frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
    hidden = _compute_mask_indices((clips, frames), 0.65, 10)
    negatives = torch.from_numpy(_sample_negative_indices((clips, frames), config.num_negatives, hidden)).long()
    mask, others = torch.from_numpy(hidden).to(device), negatives.to(device)

    def loss() -> Tensor:
        output = model(audio, mask_time_indices=mask, sampled_negative_indices=others)
        mean: Tensor = output.loss / mask.sum()
        return mean

    return Work(training_step(model, loss, device), parameters(model))


def fairseq2(toy: bool, clips: int, length_s: float, device: str) -> Work:
    """Whole updates of fairseq2's wav2vec 2.0 BASE."""
    import soundfile  # noqa: F401  (before fairseq2, which finds libsndfile only once this has loaded it)
    from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
    from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
    from fairseq2.nn import BatchLayout

    torch.compiler.set_stance("force_eager")
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
