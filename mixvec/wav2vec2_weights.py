"""wav2vec 2.0 as transformers stores it, read into fairseq2's encoder: the published BASE, LARGE and XLSR models.

``Wav2Vec2Model``, ``Wav2Vec2ForPreTraining`` and ``Wav2Vec2ForCTC`` folders are read, of which the encoder is kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import UserError
from .model.config import EncoderConfig
from .model.frontend import WaveformFrontEnd

PREFIX = "wav2vec2."  # the encoder's name inside a model with a head
OTHER_PARTS = ("quantizer.", "project_q.", "project_hid.", "lm_head.", "dropout_features.", "projector.", "classifier.")
FIXED: dict[str, Any] = {
    "conv_kernel": list(WaveformFrontEnd.KERNELS),
    "conv_stride": list(WaveformFrontEnd.STRIDES),
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
}
"""What BASE and LARGE of fairseq2 have in common; transformers' configuration omits these where they are defaults."""

NAMES = (
    (r"^masked_spec_embed$", "mask_embedding"),
    (r"^feature_extractor\.conv_layers\.", "encoder_frontend.feature_extractor.layers."),
    (r"^feature_projection\.layer_norm\.", "encoder_frontend.post_extract_layer_norm."),
    (r"^feature_projection\.projection\.", "encoder_frontend.model_dim_proj."),
    (r"^encoder\.pos_conv_embed\.conv\.", "encoder_frontend.pos_encoder.conv."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    (r"\.attention\.out_proj\.", ".self_attn.output_proj."),
    (r"\.attention\.", ".self_attn."),
    (r"(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".ffn.inner_proj."),
    (r"\.feed_forward\.output_dense\.", ".ffn.output_proj."),
    (r"\.final_layer_norm\.", ".ffn_layer_norm."),
)


def encoder_config_of(stored: dict[str, Any], folder: Path) -> EncoderConfig:
    """transformers' ``config.json`` in our words. BASE normalises its extractor by groups, LARGE (LV-60k) by layers.

    Raises:
        UserError: the model is no wav2vec 2.0 that fairseq2 builds; it names the key.
    """
    large = bool(stored.get("do_stable_layer_norm", False))
    widths = stored.get("conv_dim") or [512] * len(WaveformFrontEnd.KERNELS)
    wanted = FIXED | {
        "feat_extract_norm": "layer" if large else "group",
        "conv_bias": large,
        "conv_dim": [widths[0]] * len(WaveformFrontEnd.KERNELS),
    }
    for key, value in wanted.items():
        default = {"feat_extract_norm": "group", "conv_bias": False, "conv_dim": widths}.get(key, FIXED.get(key))
        if stored.get(key, default) != value:
            raise UserError(
                f"{folder / 'config.json'}: {key}={stored.get(key, default)} where fairseq2's wav2vec 2.0 has {value}; "
                "this model cannot be read"
            )
    try:
        return EncoderConfig(
            kind="wav2vec2",
            front_end="waveform" if large else "waveform-groupnorm",
            mixer="attention",
            conv_channels=int(widths[0]),
            dim=int(stored.get("hidden_size", 768)),
            num_layers=int(stored.get("num_hidden_layers", 12)),
            ffn_dim=int(stored.get("intermediate_size", 3072)),
            heads=int(stored.get("num_attention_heads", 12)),
            activation="gelu",
            dropout=float(stored.get("hidden_dropout", 0.1)),
            layer_drop=float(stored.get("layerdrop", 0.1)),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error


def rename(tensors: dict[str, Tensor], large: bool) -> dict[str, Tensor]:
    """transformers' names for the encoder's tensors to fairseq2's; the parts beside the encoder are left out."""
    renamed = {}
    last_norm = "encoder.layer_norm." if large else "encoder_frontend.layer_norm."
    for name, tensor in tensors.items():
        if name.startswith(OTHER_PARTS):
            continue
        name = name.removeprefix(PREFIX)
        name = re.sub(r"^encoder\.layer_norm\.", last_norm, name)
        name = re.sub(r"(conv_layers\.0)\.layer_norm\.", r"\1.group_norm.", name) if not large else name
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    return renamed
