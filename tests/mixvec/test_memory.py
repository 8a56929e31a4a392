"""Peak memory of one layer's output and of all layers', each measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from mixvec import EncoderConfig, build_encoder
from mixvec.cli.predictor import Predictor
from mixvec.model.protocol import Encoder
from mixvec.transformers_encoder import TransformersEncoder
from tests.tiny_models import WAV2VEC2

LAYERS, DIM, FRAMES = 24, 32, 3_000
FRAMES_MB = 4 * FRAMES * DIM / 1e6
OURS = EncoderConfig(mel_bins=40, conv_channels=32, dim=DIM, num_layers=LAYERS, ffn_dim=DIM, conv_kernel=7, heads=4)
THEIRS: dict[str, Any] = {
    "hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": DIM,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
KINDS: dict[str, Callable[[], Encoder]] = {
    "conformer": lambda: build_encoder(OURS),
    "branchformer": lambda: build_encoder(replace(OURS, block="branchformer")),
    "fairseq2": lambda: build_encoder(replace(WAV2VEC2, mixer="summary", num_layers=LAYERS, dim=DIM, ffn_dim=DIM)),
    "transformers": lambda: TransformersEncoder(
        transformers.AutoModel.from_config(transformers.Wav2Vec2Config(**THEIRS)), True
    ),
}


def peak_mb(work: Callable[[], object]) -> float:
    """By how much a forked process's resident memory grows at most while it does ``work``."""

    def child() -> None:
        torch.set_num_threads(1)  # its parent's threads are not in it
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with torch.inference_mode():
            work()
        found.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6)

    context = multiprocessing.get_context("fork")
    found: Any = context.Queue()
    process = context.Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return float(found.get())


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_takes_the_memory_of_one_layer(kind: str) -> None:
    encoder = KINDS[kind]().eval()
    features, lengths = torch.randn(1, FRAMES, encoder.feature_dim), torch.tensor([FRAMES])
    one, all_layers = (
        peak_mb(lambda wanted=wanted: encoder.encode(features, lengths, every_layer=wanted)) for wanted in (False, True)
    )
    assert all_layers - one > 0.5 * LAYERS * FRAMES_MB, (one, all_layers)


def test_features_of_the_last_layer_keep_no_other() -> None:
    encoder, waveform = build_encoder(OURS).eval(), torch.randn(FRAMES * 320)
    one, all_layers = (
        peak_mb(lambda layers=layers: Predictor(encoder, layers, torch.device("cpu")).predict([waveform]))
        for layers in ([LAYERS], [*range(LAYERS + 1)])
    )
    assert all_layers - one > 1.5 * LAYERS * FRAMES_MB, (one, all_layers)
