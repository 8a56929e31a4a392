"""Which part of a model learns how fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from finetune.setup import parameter_groups
from mixvec import CtcRecognizer, EncoderConfig, build_encoder
from mixvec.hub import load_encoder
from tests.runs import finetune, rows
from tests.tiny_models import MEL, VOCABULARY, WAV2VEC2

OPTIM = replace(FinetuneConfig().optim, lr=1e-3, encoder_lr=2e-4)


@pytest.mark.parametrize("shape", [MEL, replace(WAV2VEC2, num_layers=3)], ids=["mixvec", "wav2vec2"])
def test_each_layer_learns_slower_than_the_one_above(shape: EncoderConfig) -> None:
    model = CtcRecognizer(build_encoder(shape), VOCABULARY)
    groups = parameter_groups(replace(OPTIM, layer_decay=0.5), model)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert len(scales) == len(list(model.parameters())) == sum(len(group["params"]) for group in groups)
    prefix = "layers" if shape.kind == "mixvec" else "encoder.layers"
    for name, parameter in model.encoder.named_parameters():
        number = next((n for n in range(shape.num_layers) if name.startswith(f"{prefix}.{n}.")), None)
        last = name.startswith(("norm.", "encoder.layer_norm."))
        above = 0 if last else shape.num_layers if number is None else shape.num_layers - 1 - number
        assert scales[id(parameter)] == pytest.approx(0.2 * 0.5**above), name
    assert scales[id(model.output.weight)] == 1.0 and len(groups) == shape.num_layers + 2


@pytest.mark.slow
def test_freeze_then_thaw_masks_and_speed_with_attention_and_decay(source: Path, corpus: Path, tmp_path: Path) -> None:
    """The first layers move least; a frozen encoder not at all."""
    keys = (f"pretrained={source}", "freeze=0.5", "run.updates=4", "data.valid=null",
            "asr.decoder=attention", "optim.layer_decay=0.1", "data.augment.speed=[0.9,1.0,1.1]",
            "augment.time_prob=0.3", "augment.channel_prob=0.3")  # fmt: skip
    assert finetune("asr", corpus, tmp_path / "run", *keys) == 0
    assert [row["encoder_frozen"] for row in rows(tmp_path / "run") if "loss" in row] == [True, True, False, False]
    before, after = (load_encoder(folder) for folder in (source, tmp_path / "run"))
    moved = [
        max(float((a - b).abs().max()) for a, b in zip(x.state_dict().values(), y.state_dict().values(), strict=True))
        for x, y in zip(before.layers, after.layers, strict=True)
    ]
    assert 0 < moved[0] < 0.3 * moved[-1]
