"""wav2vec 2.0 made of the parts that SpeechBrain has for it, in the shape of BASE; SpeechBrain is no dependency.

Its encoder runs pre-norm with absolute positions. Masks are drawn before, negatives in the step, which times them.
"""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder  # type: ignore[import-not-found]
from speechbrain.lobes.models.wav2vec import (  # type: ignore[import-not-found]
    EncoderWrapper,
    W2VLatentExtractor,
    W2VTargetQuantiser,
    compute_mask,
    sample_negatives,
)
from speechbrain.nnet.losses import ContrastiveLoss  # type: ignore[import-not-found]
from torch import Tensor, nn

from .measure import Work
from .ours import noise, parameters, training_step


def update(toy: bool, clips: int, length_s: float, device: str) -> Work:
    """Whole updates of BASE."""
    dim, layers, heads, ffn, channels = (32, 2, 4, 64, 32) if toy else (768, 12, 12, 3072, 512)
    encoder = TransformerEncoder(layers, heads, ffn, d_model=dim, activation=nn.GELU, dropout=0.1)
    extractor: Any = W2VLatentExtractor(out_channels=[channels] * 7)
    parts = {"extractor": extractor, "encoder": EncoderWrapper(channels, dim, encoder),
             "quantiser": W2VTargetQuantiser(channels), "project": nn.Linear(dim, 256)}  # fmt: skip
    model = nn.ModuleDict(parts).to(device).train()
    audio = noise(clips, length_s, device)
    frames = int(extractor.get_output_lengths(torch.tensor(audio.shape[1])))
    mask = torch.from_numpy(compute_mask((clips, frames), [frames] * clips, 0.65, 10)).to(device)
    contrast = ContrastiveLoss(0.1)

    def loss() -> Tensor:
        latents = model["extractor"](audio)
        targets, about = model["quantiser"](latents[mask].view(clips, -1, latents.shape[-1]))
        embeddings = model["encoder"](latents, mask=mask)["embeddings"]
        context = model["project"](embeddings[mask].view(clips, -1, embeddings.shape[-1]))
        found, _ = contrast(context, targets, sample_negatives(targets, 100))
        mean: Tensor = found / mask.sum() + 0.1 * about["diversity_loss"]
        return mean

    return Work(training_step(model, loss, device), parameters(model))
