"""wav2vec 2.0 of other frameworks in pretraining: their models, their losses, at BASE or a toy's shape.

transformers' masks and negatives are drawn before, as its collator does it; it quantizes and contrasts every frame and
then drops those that are not masked. fairseq2 draws them in ``forward``, where they are timed; a function that it
compiles there is not compiled here, since the models beside it are not either.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mixvec.hub import save_folder
from mixvec.model.mel import normalise

from .measure import Work
from .ours import noise, parameters, training_step

Kind = Literal["Wav2Vec2", "Wav2Vec2Conformer"]
Trained: TypeAlias = tuple[nn.Module, float, Callable[[Tensor, Tensor], Tensor], Callable[[Path], None]]
"""A model, its highest learning rate (that of BASE, arXiv 2006.11477), the mean loss of waveforms (B, S) with lengths
(B,), and how to save its encoder."""
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


def tiny_transformers() -> Trained:
    """transformers' wav2vec 2.0 at the width and depth of our ``tiny``, with its collator's masks and negatives.

    Its convolutions are narrower than the model in BASE's proportion, 512 to 768, rounded up.
    """
    import transformers
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    made: Any = transformers
    config = made.Wav2Vec2Config(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512, conv_dim=(96,) * 7,
        layerdrop=0.0, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_quantizer_dropout=0.0,
        codevector_dim=128, proj_codevector_dim=128,
    )  # fmt: skip
    model = made.Wav2Vec2ForPreTraining(config)

    def loss(waveforms: Tensor, lengths: Tensor) -> Tensor:
        audio = normalise(waveforms, lengths)
        samples = torch.arange(audio.shape[1]) < lengths.unsqueeze(1)
        frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
        real = model._get_feature_vector_attention_mask(frames, samples)
        hidden = _compute_mask_indices((len(audio), frames), 0.65, 10, attention_mask=real, min_masks=2)
        negatives = torch.from_numpy(_sample_negative_indices((len(audio), frames), config.num_negatives, hidden))
        mask = torch.from_numpy(hidden)
        output = model(audio, samples.long(), mask_time_indices=mask, sampled_negative_indices=negatives.long())
        mean: Tensor = output.loss / mask.sum()
        return mean

    def save(folder: Path) -> None:
        model.wav2vec2.save_pretrained(folder)
        made.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)

    return model, 5e-4, loss, save


def tiny_fairseq2() -> Trained:
    """fairseq2's wav2vec 2.0 at the width and depth of our ``tiny``."""
    from dataclasses import replace

    from mixvec.model.config import SIZES
    from mixvec.wav2vec2 import Wav2Vec2Encoder, fairseq2_config  # isort: skip  (before fairseq2, for libsndfile)
    from fairseq2.models.wav2vec2 import Wav2Vec2Config
    from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
    from fairseq2.nn import BatchLayout

    shape = replace(
        SIZES["wav2vec2-base"], dim=128, num_layers=3, ffn_dim=512, heads=4, conv_channels=96, dropout=0.0,
        layer_drop=0.0,
    )  # fmt: skip
    encoder_config = fairseq2_config(shape)
    config = Wav2Vec2Config(encoder_config=encoder_config, max_temporal_mask_prob=0.65, temporal_mask_span_len=10,
                            quantized_dim=128, final_dim=128)  # fmt: skip
    model = create_wav2vec2_model(config)

    def loss(waveforms: Tensor, lengths: Tensor) -> Tensor:
        audio = normalise(waveforms, lengths)
        with torch.compiler.set_stance("force_eager"):
            found, output = model(audio, BatchLayout.of(audio, lengths.tolist()))
        mean: Tensor = found.aggregate / output.num_targets
        return mean

    def save(folder: Path) -> None:
        encoder = Wav2Vec2Encoder(shape)
        own = model.state_dict()
        encoder.load_state_dict({name: own.get(name, value) for name, value in encoder.state_dict().items()})
        save_folder(encoder, folder)

    return model, 5e-4, loss, save
