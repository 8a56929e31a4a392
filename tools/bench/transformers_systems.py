"""transformers' wav2vec 2.0 and its Conformer form: the models as they stand, with their own losses.

Masks and distractors are drawn before, as its example's collator does it. It quantizes and contrasts every frame and
then drops those that are not masked; that is its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.wav2vec2.configuration_wav2vec2 import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2BaseModelOutput,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    _sample_negative_indices,
)
from transformers.models.wav2vec2_conformer.configuration_wav2vec2_conformer import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerForPreTraining

from .cases import Case, Work
from .work import TOY_DISTRACTORS, backward, encoder_outputs, masks, precision, size, updates, waveforms

TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
       "conv_dim": (32,) * 7, "num_negatives": TOY_DISTRACTORS}  # fmt: skip
CONFORMER = {"num_attention_heads": 8, "hidden_act": "swish"}
"""The rest of its defaults is our ``base``: width 768, 12 blocks, feed-forward 3072, kernel 31, 50 frames/s."""


def objective(case: Case, variant: str) -> Work:
    """From encoder output and features to the loss."""
    config = Wav2Vec2Config(**({"layerdrop": 0.0} | (TOY if case.toy else {})))
    hidden, features = encoder_outputs(case, config.hidden_size, config.conv_dim[-1])
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**(config.to_dict() | {"num_hidden_layers": 1})))
    model.wav2vec2 = Given(hidden, features)
    model.to(case.device).train()
    mask, negatives = _draw(case, config, *hidden.shape[:2])
    count = mask.sum()

    def loss() -> Tensor:
        output = model(hidden[..., 0], mask_time_indices=mask, sampled_negative_indices=negatives)
        return output.loss / count  # type: ignore[no-any-return]

    return Work(backward(case, loss, [hidden, features, *model.parameters()]))


class Given(nn.Module):
    """Stands for ``Wav2Vec2Model`` where its outputs are there already."""

    def __init__(self, hidden: Tensor, features: Tensor) -> None:
        super().__init__()
        self.output = Wav2Vec2BaseModelOutput(last_hidden_state=hidden, extract_features=features)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        mask_time_indices: Tensor,
        return_dict: bool,
    ) -> Wav2Vec2BaseModelOutput:
        return self.output


def update(case: Case, variant: str) -> Work:
    """Whole updates with its own loss, of BASE or of its Conformer at our ``base``'s width and depth."""
    shape = {"layerdrop": 0.0} | (CONFORMER if variant == "conformer" else {}) | (TOY if case.toy else {})
    if variant == "conformer":
        model = Wav2Vec2ConformerForPreTraining(Wav2Vec2ConformerConfig(**shape))
    else:
        model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**shape))
    model.to(case.device).train()
    batches = []
    for audio in waveforms(case):
        frames = int(model._get_feat_extract_output_lengths(audio.shape[1]))
        batches.append((audio, *_draw(case, model.config, len(audio), frames)))

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        audio, mask, negatives = batch
        output = model(audio, mask_time_indices=mask, sampled_negative_indices=negatives)
        return output.loss / mask.sum()  # type: ignore[no-any-return]

    return Work(updates(case, model, batches, loss), size(model))


def inference(case: Case, variant: str) -> Work:
    """Waveforms to the best entry of each frame, BASE."""
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**({"vocab_size": 32} | (TOY if case.toy else {})))).to(case.device).eval()
    (audio,) = waveforms(case)

    @torch.inference_mode()
    def step() -> Tensor:
        with precision(case):
            return model(audio).logits.argmax(-1).cpu()  # type: ignore[no-any-return]

    return Work(step, size(model))


def _draw(case: Case, config: Wav2Vec2Config, rows: int, frames: int) -> tuple[Tensor, Tensor]:
    """The mask (B, T) and the negatives (B, T, K)."""
    hidden = masks(rows, frames)
    negatives = _sample_negative_indices((rows, frames), config.num_negatives, hidden)
    return torch.from_numpy(hidden).to(case.device), torch.from_numpy(negatives).long().to(case.device)
