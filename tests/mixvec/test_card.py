"""Model cards: the hub's YAML is YAML and says what is meant, and nothing is said that is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from mixvec import CtcRecognizer, EncoderConfig, build_encoder
from mixvec.card import model_card
from mixvec.hub import save_folder
from tests.tiny_models import VOCABULARY, WAV2VEC2, classifier, encoder, recogniser

MODELS: dict[str, nn.Module] = {
    "encoder": encoder(),
    "ctc": recogniser(),
    "classifier": classifier(),
    "wav2vec2": encoder(WAV2VEC2),
    "ctc wav2vec2": recogniser(WAV2VEC2),
}
FACTS: dict[str, Any] = {
    "data": 'Bob\'s "read: speech" | test\nset',
    "hours_seen": 12.3456,
    "language": "no",
    "licence": "cc-by-4.0",
    "test_data": 'held out: "dev" #1',
    "split": "test",
    "scored": 40,
    "seed": 3,
    "device_hours": 0.5,
    "energy_kwh": 1.25,
    "datasets": ["org/speech"],
    "test_dataset": "org/speech",
    "base_model": "org/encoder",
    "metrics": {"wer": 1e-05, "cer": 0.25, "macro_f1": float("nan"), "accuracy": 1.0, "empty": 0.025},
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_card_has_sane_front_matter(kind: str, tmp_path: Path) -> None:
    save_folder(MODELS[kind], tmp_path / "m", FACTS)
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    parsed = yaml.safe_load(front)
    ours = "wav2vec2" not in kind
    assert parsed["license"] == "cc-by-4.0" and parsed["language"] == "no"
    assert parsed["library_name"] == ("transformers" if ours else "mixvec")
    tasks = {"ctc": "automatic-speech-recognition", "classifier": "audio-classification"}
    assert parsed.get("pipeline_tag") == tasks.get(kind.split()[0])
    assert all(isinstance(tag, str) for tag in parsed["tags"])
    assert parsed["datasets"] == ["org/speech"] and parsed["base_model"] == "org/encoder"
    assert (" pipeline(" in body or "AutoModel.from" in body) == ours == ("trust_remote_code=True" in body)
    if "pipeline_tag" in parsed:
        (index,) = parsed["model-index"]
        (result,) = index["results"]
        assert index["name"] == "PATH_OR_NAME" and result["task"] == {"type": parsed["pipeline_tag"]}
        assert result["dataset"] == {"name": 'held out: "dev" #1', "type": "org/speech", "split": "test"}
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert values == {"wer": 1e-3, "cer": 25, "accuracy": 100} and parsed["metrics"] == ["accuracy", "cer", "wer"]
        (args,) = {json.dumps(metric["args"], sort_keys=True) for metric in result["metrics"]}
        how = {"decoding": "greedy CTC, no language model"} if "ctc" in kind else {}
        assert json.loads(args) == {"seed": 3, "utterances": 40, **how}
    assert "| cer | 25 % |" in body and "| empty | 0.025 |" in body and "utterances: 40" in body
    assert (
        "## Limits" in body and "| device-hours | 0.5 |" in body and "| energy drawn by the GPUs, kWh | 1.25 |" in body
    )
    assert r'| training data | Bob\'s "read: speech" \| test set |'.replace("\\'", "'") in body
    assert ("load_encoder(" in body) == (kind == "wav2vec2")
    assert ("mixvec[fairseq2]" in body) == ("wav2vec2" in kind)
    assert "from mixvec.audio import" in body


def test_a_card_of_nothing_known_says_nothing(tmp_path: Path) -> None:
    save_folder(encoder(), tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    parsed = yaml.safe_load(text.split("---\n")[1])
    assert not {"license", "language", "model-index"} & set(parsed)
    assert "## Results" not in text and "## Training budget" not in text and "None" not in text


def test_a_strange_place_is_quoted(tmp_path: Path) -> None:
    save_folder(recogniser(), tmp_path / "m")
    text = model_card(
        json.loads((tmp_path / "m" / "config.json").read_text()), 1, CtcRecognizer, 'my models/o\'neil "x"'
    )
    assert "--model 'my models/o'\"'\"'neil \"x\"' speech.wav" in text
    assert 'from_pretrained("my models/o\'neil \\"x\\"")' in text


def test_log_mel_is_no_summary_mixing_encoder(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(kind="log-mel", dim=20, heads=1, num_layers=0))
    save_folder(CtcRecognizer(encoder, VOCABULARY), tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["tags"] == ["speech", "mixvec"]
    assert "log-mel" in text and not {"summary", "conformer"} & set(text.replace("-", " ").split())
    assert "summary" not in text
