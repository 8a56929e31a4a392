"""Our systems, as they train and as they are used: nothing of them is written anew here but the paper's baseline.

A variant is words: the mixer (``summary``, ``attention``, ``materialised``) or ``wav2vec2``, ``compiled`` where blocks
are compiled as in pretraining, and ``fused`` where SummaryMixing runs in its Triton kernels, which it else does not.

LayerDrop is off, so that every repeat does the same work. Masks and distractors are drawn before, as our loader's
workers do it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mixvec import (
    CtcRecognizer,
    EncoderConfig,
    EncoderOutput,
    SelfAttention,
    SummaryMixing,
    build_encoder,
    encoder_config,
)
from mixvec.kernels.select import install
from mixvec.model.blocks import ConformerBlock
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.mixing import build_mixer
from mixvec.training.compiling import GraphCounter, compile_blocks, warm_up
from pretrain.objectives.contrastive import MaskedBatch, MaskedPrediction, ObjectiveConfig, Totals, draw_distractors

from .cases import FRAME_RATE_HZ, Case, Work
from .work import (
    MASK_SPAN_FRAMES,
    TOY_DISTRACTORS,
    backward,
    encoder_outputs,
    masks,
    precision,
    size,
    updates,
    waveforms,
)

FFN_95M = 1472
"""``base`` with this width has 95.7 M parameters, objective included, where BASE has 95.0 M; both at 50 frames/s."""
TOY = {"conv_channels": 32, "dim": 32, "num_layers": 2, "ffn_dim": 64, "heads": 4}
STRIDES = {"25hz": ((2, 2), 5), "12hz": ((2, 2, 2), 3)}
"""Of ``base-25hz`` and ``base-12hz``, with their spans of about 200 ms in frames."""
VOCABULARY = ["[PAD]", "|", *"abcdefghijklmnopqrstuvwxyz'.?!"]


def mixer(case: Case, variant: str) -> Work:
    """A mixer of ``base``, or a block around it, forward and backward; no padding, and no dropout in any of them.

    Without dropout because torch's fused attention has none on the CPU: it would materialise its scores.
    """
    config = replace(_config(case, "base", variant), dropout=0.0)
    module: nn.Module = ConformerBlock(config) if case.group == "block" else build_mixer(config)
    if variant == "materialised":
        module = MaterialisedAttention(config.dim, config.heads, dropout=0.0)
    fuse(case, module.to(case.device), variant)
    if "compiled" in variant:
        module.compile()
    ((clips, seconds),) = case.batches
    x = torch.randn(clips, round(seconds * FRAME_RATE_HZ), config.dim, device=case.device, requires_grad=True)
    return Work(backward(case, lambda: module(x, None), [x, *module.parameters()]), "no dropout")


def fuse(case: Case, model: nn.Module, variant: str) -> None:
    """Let SummaryMixing run in its Triton kernel, or on a GPU without it, as ``variant`` asks.

    Raises:
        Exception: the kernel cannot run here; else a row would state what was not measured.
    """
    mixers = [module for module in model.modules() if isinstance(module, SummaryMixing)]
    if not mixers or "fused" not in variant:
        return
    from mixvec.kernels.triton import branches

    install(mixers, branches)
    x = torch.zeros(1, 1, mixers[0].first.weight.shape[:2].numel(), device=case.device)
    with precision(case), torch.no_grad():
        mixers[0](x)


class MaterialisedAttention(SelfAttention):
    """Self-attention that holds its T × T scores, as the paper's baseline does (arXiv 2407.13377)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, D) to (B, T, D); ``mask`` is not read."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D/H)
        q, k, v = qkv.unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, T, T)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def objective(case: Case, variant: str) -> Work:
    """From encoder output and features to the loss: pretraining's own module around an encoder that is given."""
    config = replace(_config(case, "base", "summary"), num_layers=1, ffn_dim=8)
    hidden, features = encoder_outputs(case, config.dim, config.conv_channels)
    model = MaskedPrediction(config, _objective(case))
    model.encoder = Given(hidden, features)  # type: ignore[assignment]
    model.to(case.device).train()
    batch = _masked(case, hidden[..., 0], masks(*hidden.shape[:2]))
    totals = _totals(batch, hidden.shape[1])
    step = backward(case, lambda: model(batch, totals, 2.0).loss, [hidden, features, *model.parameters()])
    return Work(step)


class Given(nn.Module):
    """Stands for an encoder whose outputs are there already."""

    def __init__(self, hidden: Tensor, features: Tensor) -> None:
        super().__init__()
        self.hidden, self.given = hidden, features

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``waveforms`` is not read; every utterance fills its row."""
        return self.given, torch.full_like(lengths, self.given.shape[1])

    def encode(self, features: Tensor, frame_lengths: Tensor, mask: Tensor, *, every_layer: bool) -> EncoderOutput:
        return EncoderOutput(self.hidden, frame_lengths, [self.hidden])


def update(case: Case, variant: str) -> Work:
    """Whole updates of pretraining; ``wav2vec2`` is fairseq2's encoder with our objective in our loop."""
    model, batches = training(case, variant)
    step = updates(case, model, batches, lambda given: model(*given, 2.0).loss)
    rate = "" if variant == "wav2vec2" else f", {SAMPLE_RATE_HZ / model.encoder.hop_samples:g} frames/s"
    return Work(step, size(model) + rate)


def training(case: Case, variant: str) -> tuple[MaskedPrediction, list[tuple[MaskedBatch, Totals]]]:
    """The model in pretraining, and the case's batches."""
    config = _config(case, "wav2vec2-base" if variant == "wav2vec2" else "base", variant)
    if case.group == "95 M" and variant != "wav2vec2" and not case.toy:
        config = replace(config, ffn_dim=FFN_95M)
    model = MaskedPrediction(config, _objective(case)).train()
    if variant == "materialised":
        for layer in model.encoder.layers:  # type: ignore[union-attr]
            layer.mixer = MaterialisedAttention(config.dim, config.heads, dropout=0.0)
    fuse(case, model.to(case.device), variant)
    if "compiled" in variant:
        compile_blocks(model.encoder, GraphCounter(print))
        frames = model.encoder.frame_lengths(round(case.length_s * SAMPLE_RATE_HZ))
        warm_up(model.encoder, frames, partial(precision, case))
    batches = []
    for audio in waveforms(case):
        frames = int(model.encoder.frame_lengths(audio.shape[1]))
        span_frames = STRIDES.get(variant, (None, MASK_SPAN_FRAMES))[1]
        batch = _masked(case, audio, masks(len(audio), frames, span_frames))
        batches.append((batch, _totals(batch, frames)))
    return model, batches


def inference(case: Case, variant: str) -> Work:
    """Waveforms to text with greedy CTC, ``small``."""
    torch.manual_seed(0)
    model = CtcRecognizer(build_encoder(_config(case, "small", variant)), VOCABULARY).to(case.device).eval()
    fuse(case, model, variant)
    (audio,) = waveforms(case)

    def step() -> list[str]:
        with precision(case):
            return model.transcribe(audio)

    return Work(step, size(model))


def _config(case: Case, name: str, variant: str) -> EncoderConfig:
    config = replace(encoder_config(name), layer_drop=0.0)
    if variant.startswith(("attention", "materialised")):
        config = replace(config, mixer="attention")
    if variant in STRIDES:
        config = replace(config, conv_strides=STRIDES[variant][0])
    return replace(config, **TOY) if case.toy else config  # type: ignore[arg-type]


def _objective(case: Case) -> ObjectiveConfig:
    return ObjectiveConfig(distractors=TOY_DISTRACTORS) if case.toy else ObjectiveConfig()


def _masked(case: Case, audio: Tensor, hidden: np.ndarray) -> MaskedBatch:
    """The micro-batch of audio (B, S), all of it real, and of the frames to hide (B, T), M in each row."""
    rng, rows, device = np.random.default_rng(0), len(hidden), case.device
    count, distractors = int(hidden[0].sum()), _objective(case).distractors
    drawn = np.stack([draw_distractors(count, distractors, rng) for _ in range(rows)])
    return MaskedBatch(
        audio,
        torch.full((rows,), audio.shape[1], device=device),
        torch.from_numpy(hidden).to(device),
        torch.from_numpy(hidden.nonzero()[1].reshape(rows, count)).to(device),
        torch.full((rows,), count, device=device),
        torch.from_numpy(drawn).to(device),
    )


def _totals(batch: MaskedBatch, frames: int) -> Totals:
    return Totals(batch.counts.sum(), batch.counts.new_tensor(len(batch.counts) * frames), None)
