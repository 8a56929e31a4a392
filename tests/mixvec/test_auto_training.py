"""Training published encoders in transformers: a new head, Trainer, gradient checkpointing, other dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    Trainer,
    TrainingArguments,
)

from mixvec.hub import load_model, save_folder
from tests.tiny_models import classifier, encoder, recogniser, speech


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder."""
    torch.manual_seed(0)
    save_folder(encoder(), tmp_path_factory.mktemp("encoder") / "m")
    return next(tmp_path_factory.getbasetemp().glob("encoder*")) / "m"


def batch() -> dict[str, torch.Tensor]:
    waveforms, lengths = speech()
    mask = (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()
    return {
        "input_values": waveforms,
        "attention_mask": mask,
        "labels": torch.tensor([[3, 4, 1, 5], [4, 2, -100, -100]]),
    }


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model(**batch()).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_a_new_head_is_drawn_as_ours_and_the_encoder_is_kept(folder: Path) -> None:
    model, info = AutoModelForCTC.from_pretrained(folder, vocab_size=6, output_loading_info=True)
    assert sorted(info["missing_keys"]) == ["head_norm.bias", "head_norm.weight", "output.bias", "output.weight"]
    assert model.output.weight.shape == (6, 32) and float(model.output.weight.abs().max()) <= 32**-0.5
    assert torch.equal(model.head_norm.weight, torch.ones(32))
    ours = load_model(folder).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.encoder.state_dict().items())
    weighted = AutoModelForAudioClassification.from_pretrained(folder, num_labels=4, head={"layers": "weighted"})
    assert torch.equal(weighted.choice.weights, torch.zeros(3)) and weighted.output.out_features == 4
    assert AutoModelForAudioXVector.from_pretrained(folder, num_labels=5).directions.std() > 0.5


def test_gradient_checkpointing_changes_no_gradient(folder: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForCTC.from_pretrained(folder, vocab_size=6, head={"dropout": 0.0}).train()
    plain = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and all(block.checkpointing for block in model.encoder.layers)
    again = gradients(model)
    assert len(plain) > 50 and all(torch.equal(again[name], value) for name, value in plain.items())
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing and not any(block.checkpointing for block in model.encoder.layers)
    model.freeze_feature_encoder()
    assert not any(parameter.requires_grad for parameter in model.encoder.front_end.parameters())


def test_trainer_learns_and_mixvec_loads_what_it_saves(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = AutoModelForCTC.from_pretrained(folder, vocab_size=6)
    rows = [{name: value[row] for name, value in batch().items()} for row in (0, 1)] * 8
    options = TrainingArguments(
        tmp_path / "run", max_steps=8, per_device_train_batch_size=2, learning_rate=3e-3, report_to=[], logging_steps=1,
        save_strategy="no", use_cpu=True, gradient_checkpointing=True, disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Trainer(model, options, train_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save_model(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.json").write_text('{"[PAD]": 0, "|": 1, "a": 2, "b": 3, "c": 4, "d": 5}')
    waveforms, lengths = speech()
    again = load_model(tmp_path / "saved")
    with torch.inference_mode():
        ours, _ = again(waveforms, lengths)
        theirs = model.eval()(waveforms, attention_mask=batch()["attention_mask"]).logits
    torch.testing.assert_close(theirs[0], ours[0], rtol=0, atol=2e-5)


def test_bfloat16_keeps_the_filters(folder: Path, tmp_path: Path) -> None:
    """The mel tables are no buffers, which a cast would round and an initialisation on the meta device would lose."""
    full, half = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    (filters, _), (other, _) = (m.front_end.tables.on(torch.device("cpu")) for m in (full, half))
    assert torch.equal(filters, other) and other.dtype == torch.float32 and dict(full.named_buffers()) == {}
    save_folder(recogniser(), tmp_path / "asr")
    whole = AutoModelForCTC.from_pretrained(tmp_path / "asr").eval()
    cut = AutoModelForCTC.from_pretrained(tmp_path / "asr", dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        difference = whole(speech()[0]).logits - cut(speech()[0]).logits
    assert float(difference.abs().max()) < 0.2


def test_what_a_head_cannot_be_built_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        AutoModelForCTC.from_pretrained(folder)
    save_folder(classifier(), tmp_path / "m")
    with pytest.raises(ValueError, match="a Classifier, which MixvecForCTC cannot load"):
        AutoModelForCTC.from_pretrained(tmp_path / "m", vocab_size=6)
