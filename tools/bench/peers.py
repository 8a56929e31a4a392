"""wav2vec 2.0 of other frameworks in pretraining: their models and their losses, at BASE's shape or smaller.

transformers' masks and negatives are drawn with the batch, as its collator does it; it quantizes and contrasts every
frame and then drops those that are not masked. fairseq2 draws them in ``forward``, where they are timed; a function
that it compiles there is not compiled here, since the models beside it are not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixvec.data.batches import Clip, pad
from mixvec.hub import save_folder
from mixvec.model.config import SIZES
from mixvec.model.mel import normalise

from .ours import Learner

CONFORMER = {"num_attention_heads": 8, "hidden_act": "swish"}
"""The other defaults of transformers' are our ``base``: width 768, 12 blocks, feed-forward 3072, kernel 31, 50 Hz."""
TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
       "conv_dim": (32,) * 7}  # fmt: skip
TINY = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512,
        "conv_dim": (96,) * 7, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
        "feat_quantizer_dropout": 0.0, "codevector_dim": 128, "proj_codevector_dim": 128}  # fmt: skip
"""The width and depth of our ``tiny``; the convolutions are narrower in BASE's proportion, 512 to 768, rounded up."""
FAIRSEQ2_TOY = {"dim": 32, "num_layers": 2, "ffn_dim": 64, "heads": 4, "conv_channels": 32}
FAIRSEQ2_TINY = {"dim": 128, "num_layers": 3, "ffn_dim": 512, "heads": 4, "conv_channels": 96, "dropout": 0.0}
LR = 5e-4
"""The highest learning rate of BASE (arXiv 2006.11477)."""


class Padded(NamedTuple):
    """Normalised waveforms (B, S), lengths (B,), and of transformers masks (B, T) and negatives (B, T, K)."""

    waveforms: Tensor
    lengths: Tensor
    mask: Tensor
    negatives: Tensor
    real: Tensor | None = None
    """Of transformers: which samples (B, S) are no padding; None without padding, as attention is faster then."""


def transformers(kind: str, shape: dict[str, Any]) -> Learner:
    """transformers' ``Wav2Vec2`` or ``Wav2Vec2Conformer``, BASE but for ``shape``."""
    import transformers
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    made: Any = transformers
    config = getattr(made, f"{kind}Config")(layerdrop=0.0, **shape)
    model = getattr(made, f"{kind}ForPreTraining")(config)

    def collate(clips: list[Clip]) -> Padded:
        audio, lengths = pad([clip.waveform for clip in clips])
        frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
        real = torch.arange(audio.shape[1]) < lengths.unsqueeze(1)
        valid = model._get_feature_vector_attention_mask(frames, real)
        hidden = _compute_mask_indices((len(audio), frames), 0.65, 10, attention_mask=valid, min_masks=2)
        negatives = _sample_negative_indices((len(audio), frames), config.num_negatives, hidden)
        return Padded(normalise(audio, lengths), lengths, torch.from_numpy(hidden), torch.from_numpy(negatives).long(),
                      None if real.all() else real.long())  # fmt: skip

    def loss(batch: Padded) -> Tensor:
        output = model(batch.waveforms, batch.real, mask_time_indices=batch.mask,
                       sampled_negative_indices=batch.negatives)  # fmt: skip
        mean: Tensor = output.loss / batch.mask.sum()
        return mean

    def save(folder: Path) -> None:
        model.wav2vec2.save_pretrained(folder)
        made.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)

    return Learner(model, LR, collate, shares(loss), save)


def fairseq2(shape: dict[str, Any], code_dim: int = 256) -> Learner:
    """fairseq2's wav2vec 2.0 BASE but for ``shape``, keys of our ``EncoderConfig``."""
    from mixvec.wav2vec2 import Wav2Vec2Encoder, fairseq2_config  # isort: skip  (before fairseq2, for libsndfile)
    from fairseq2.models.wav2vec2 import Wav2Vec2Config
    from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
    from fairseq2.nn import BatchLayout

    own = replace(SIZES["wav2vec2-base"], layer_drop=0.0, **shape)
    config = Wav2Vec2Config(encoder_config=fairseq2_config(own), max_temporal_mask_prob=0.65,
                            temporal_mask_span_len=10, quantized_dim=code_dim, final_dim=code_dim)  # fmt: skip
    model: nn.Module = create_wav2vec2_model(config)

    def collate(clips: list[Clip]) -> Padded:
        audio, lengths = pad([clip.waveform for clip in clips])
        return Padded(normalise(audio, lengths), lengths, torch.empty(0), torch.empty(0))

    def loss(batch: Padded) -> Tensor:
        with torch.compiler.set_stance("force_eager"):
            found, output = model(batch.waveforms, BatchLayout.of(batch.waveforms, batch.lengths.tolist()))
        mean: Tensor = found.aggregate / output.num_targets
        return mean

    def save(folder: Path) -> None:
        encoder, found = Wav2Vec2Encoder(own), model.state_dict()
        encoder.load_state_dict({name: found.get(name, value) for name, value in encoder.state_dict().items()})
        save_folder(encoder, folder)

    return Learner(model, LR, collate, shares(loss), save)


def shares(loss: Callable[[Padded], Tensor]) -> Callable[[list[Padded], int, float], Iterator[Tensor]]:
    """The losses of an update's batches, of which each is a mean: they count by their seconds."""

    def losses(batches: list[Padded], update: int, progress: float) -> Iterator[Tensor]:
        whole = sum(int(batch.lengths.sum()) for batch in batches)
        return (loss(batch) * (int(batch.lengths.sum()) / whole) for batch in batches)

    return losses
