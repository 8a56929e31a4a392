"""Published models in PEFT: LoRA is trained, saved, loaded and merged, and the merged model is one of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCTC, Trainer, TrainingArguments

from mixvec import EncoderConfig
from mixvec.hub import load_model, save_folder
from tests.mixvec.test_auto_training import batch
from tests.tiny_models import MEL, VOCABULARY, encoder, recogniser, speech

LITE = replace(MEL, block="branchformer", mixer="summary-lite")
CONFORMER = [f"{name}.weight" for name in (
    "conv.gate", "conv.out", "ffn_in.1", "ffn_in.4", "ffn_out.1", "ffn_out.4", "mixer.combine")]  # fmt: skip
BRANCHFORMER = [f"{name}.weight" for name in ("local.down", "local.up", "merge", "merge_act.1")]


def logits(model: Any) -> Tensor:
    given = {name: value for name, value in batch().items() if name != "labels"}
    with torch.inference_mode():
        return model.eval()(**given).logits  # type: ignore[no-any-return]


def loss_of(model: Any) -> float:
    with torch.inference_mode():
        return float(model.eval()(**batch()).loss)


@pytest.mark.parametrize(("config", "adapted"), [(MEL, CONFORMER), (LITE, BRANCHFORMER)])
def test_lora_is_trained_saved_and_merged(tmp_path: Path, config: EncoderConfig, adapted: list[str]) -> None:
    """On an encoder with a new head; each linear layer of a block is trained."""
    torch.manual_seed(0)
    save_folder(encoder(config), tmp_path / "encoder")
    base = AutoModelForCTC.from_pretrained(tmp_path / "encoder", vocab_size=6)
    base.gradient_checkpointing_enable()
    lora = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["head_norm", "output"])
    model = get_peft_model(base, lora).train()
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(6):
        loss = model(**batch()).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, first[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inside = {name.split("layers.1.")[1].replace(".lora_B.default", "") for name in changed if "layers.1." in name}
    assert sorted(name for name in inside if "lora" not in name) == sorted(adapted)

    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(1)
    again = AutoModelForCTC.from_pretrained(tmp_path / "encoder", vocab_size=6)
    names = sorted(again.state_dict())
    assert float((logits(again) - trained).abs().max()) > 0.1
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(again, tmp_path / "adapter")), trained, rtol=0, atol=2e-6
    )

    merged = model.merge_and_unload()
    assert sorted(merged.state_dict()) == names
    torch.testing.assert_close(logits(merged), trained, rtol=0, atol=2e-5)
    merged.save_pretrained(tmp_path / "merged")
    (tmp_path / "merged" / "vocab.json").write_text('{"[PAD]": 0, "|": 1, "a": 2, "b": 3, "c": 4, "d": 5}')
    with torch.inference_mode():
        ours, lengths = load_model(tmp_path / "merged")(*speech())
    theirs = logits(AutoModelForCTC.from_pretrained(tmp_path / "merged", trust_remote_code=True))
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[row, :length], trained[row, :length], rtol=0, atol=2e-5)
    torch.testing.assert_close(theirs, trained, rtol=0, atol=2e-5)


def test_trainer_trains_an_adapter_with_gradient_checkpointing(tmp_path: Path) -> None:
    torch.manual_seed(2)
    save_folder(recogniser(), tmp_path / "asr")
    base = AutoModelForCTC.from_pretrained(tmp_path / "asr")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["ffn_in.1", "ffn_out.4", "combine"]))
    before = loss_of(model)
    rows = [{name: value[row] for name, value in batch().items()} for row in (0, 1)] * 12
    options = TrainingArguments(
        tmp_path / "run", max_steps=12, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        save_strategy="no", use_cpu=True, gradient_checkpointing=True, disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Trainer(model, options, train_dataset=rows)
    trainer.train()
    assert loss_of(model) < 0.8 * before
    trainer.save_model(tmp_path / "adapter")
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} >= {".safetensors", ".json"}
    assert not (tmp_path / "adapter" / "model.safetensors").exists(), "the adapter alone"
    found = logits(AutoModelForCTC.from_pretrained(tmp_path / "adapter"))  # transformers finds its recogniser
    torch.testing.assert_close(found, logits(model), rtol=0, atol=2e-6)
    assert found.shape[-1] == len(VOCABULARY)


def test_the_block_diagonal_layers_of_a_mixer_are_refused(tmp_path: Path) -> None:
    """They are no linear layers of torch."""
    save_folder(encoder(), tmp_path / "encoder")
    base = AutoModelForCTC.from_pretrained(tmp_path / "encoder", vocab_size=6)
    with pytest.raises(ValueError, match="BlockLinear"):
        get_peft_model(base, LoraConfig(target_modules=["first", "second"]))
