"""What an encoder is compared with: log-mel, its own shape at random, and encoders of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.config import FinetuneConfig
from finetune.frozen import is_frozen
from finetune.transformers_encoder import TransformersEncoder
from mixvec import SpeechEncoder, UserError
from mixvec.hub import load_encoder, load_model
from tests.runs import SMALLEST, finetune, identical
from tests.tiny_models import encoder as own_encoder

BRIEF = ("run.updates=2", "run.eval_every=2", "head.layers=weighted")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONV = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}


def make(kind: str, folder: Path) -> Any:
    """A model of transformers with weights drawn at random, saved."""
    import transformers

    configs: dict[str, Any] = {
        "hubert": transformers.HubertConfig(**TINY, **CONV, feat_extract_norm="group"),
        "wavlm": transformers.WavLMConfig(**TINY, **CONV, feat_extract_norm="layer", do_stable_layer_norm=True),
        "data2vec": transformers.Data2VecAudioConfig(**TINY, **CONV, conv_pos_kernel_size=3),
        "w2v-bert": transformers.Wav2Vec2BertConfig(**TINY, feature_projection_input_dim=160),
    }
    model = transformers.AutoModel.from_config(configs[kind]).eval()
    model.save_pretrained(folder)
    if kind == "w2v-bert":
        transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
    else:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=kind != "wavlm").save_pretrained(folder)
    return model


def heard(folder: Path, model: Any, waveform: Tensor) -> list[Tensor]:
    """What transformers itself makes of one waveform (S,)."""
    from transformers import AutoFeatureExtractor

    inputs = AutoFeatureExtractor.from_pretrained(folder)(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    made = model(**inputs, output_hidden_states=True)
    return [*made.hidden_states[:-1], made.last_hidden_state]


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "data2vec", "w2v-bert"])
@torch.no_grad()
def test_an_encoder_of_transformers_gives_its_own_frames_alone_and_padded(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path)
    encoder = TransformersEncoder(tmp_path).eval()
    waveforms, lengths = torch.randn(3, 9_000), torch.tensor([9_000, 6_123, 200])
    frames, counts, layers = encoder(waveforms, lengths)
    assert len(layers) == encoder.num_layers + 1 and torch.equal(frames, layers[-1])
    for row, samples in enumerate(lengths.tolist()):
        count = int(counts[row])
        assert count == encoder.frame_lengths(samples) and not frames[row, count:].any()
        if samples >= encoder.min_samples:
            expected = heard(tmp_path, model, waveforms[row, :samples])
            assert expected[0].shape[1] in (count, count + 1)  # transformers fills up w2v-BERT's last stack
            for ours, theirs in zip(layers, expected, strict=True):
                torch.testing.assert_close(ours[row, :count], theirs[0, :count], rtol=0, atol=2e-4)
    hidden = torch.zeros(frames.shape[:2], dtype=torch.bool)
    hidden[0, 3:6] = True
    masked = encoder.encode(*encoder.features(waveforms, lengths), hidden).layers[0]
    changed = (masked - layers[0]).abs().amax(-1) > 1e-6
    assert changed[0, 3:6].all() and not changed[1:].any()


@pytest.mark.parametrize("freeze", [0, 1])
def test_a_head_on_an_encoder_of_transformers(corpus: Path, tmp_path: Path, freeze: int) -> None:
    model = make("hubert", tmp_path / "hubert")
    keys = (f"pretrained={tmp_path / 'hubert'}", f"freeze={freeze}", f"data.test={corpus}/intent/test", *BRIEF)
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    assert 0 <= json.loads((tmp_path / "run/results.json").read_text())["test"]["accuracy"] <= 1
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "run/hub/model.safetensors")
    kept = {name.removeprefix("encoder.model."): t for name, t in stored.items() if name.startswith("encoder.model.")}
    assert identical(kept, model.state_dict()) == bool(freeze)
    with pytest.raises(UserError, match=r"encoder\.kind=transformers: .* cannot be loaded or published"):
        load_model(tmp_path / "run/hub")


def test_what_transformers_cannot_give_is_refused_in_a_line(tmp_path: Path) -> None:
    import transformers

    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(
        UserError, match=r"pickled: no safetensors in it, and pickled weights are not read; .*AutoModel"
    ):
        TransformersEncoder(tmp_path / "pickled")
    small = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
                                    vocab_size=8)  # fmt: skip
    transformers.AutoModel.from_config(small).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match=r"text: a bert has no encoder of the wav2vec 2\.0 family"):
        TransformersEncoder(tmp_path / "text")
    (tmp_path / "text/config.json").write_text('{"model_type": "poetry"}')
    with pytest.raises(UserError, match=r"text: transformers cannot build it: .*poetry"):
        TransformersEncoder(tmp_path / "text")


def test_log_mel_needs_no_encoder_and_gives_a_model_to_publish(corpus: Path, tmp_path: Path) -> None:
    assert finetune("asr", corpus, tmp_path / "run", "baseline=log-mel", *BRIEF) == 0
    assert load_encoder(tmp_path / "run").config.kind == "log-mel"
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["baseline"] == "log-mel" and results["pretrained"] is None
    assert json.loads((tmp_path / "run/hub/config.json").read_text())["training"]["started_from"] == "log-mel"


def test_a_random_encoder_has_the_shape_and_stays_as_it_is_drawn(corpus: Path, tmp_path: Path) -> None:
    source = own_encoder()
    assert isinstance(source, SpeechEncoder)
    source.save_pretrained(tmp_path / "source")
    keys = (f"pretrained={tmp_path / 'source'}", "baseline=random", "freeze=0", "optim.lr=0.1", *BRIEF)
    drawn = []
    for name, updates in (("short", 1), ("long", 2)):
        assert finetune("intent", corpus, tmp_path / name, *keys, f"run.updates={updates}") == 0
        drawn.append(load_encoder(tmp_path / name).state_dict())
    assert identical(*drawn), "it is not trained, and the same seed draws the same"
    assert drawn[0].keys() == source.state_dict().keys() and not identical(drawn[0], source.state_dict())


def test_from_scratch_and_frozen(corpus: Path, tmp_path: Path) -> None:
    for name, updates in (("short", 1), ("long", 2)):
        keys = ("size=tiny", *SMALLEST, "freeze=1", *BRIEF, f"run.updates={updates}")
        assert finetune("intent", corpus, tmp_path / name, *keys) == 0
    assert identical(*(load_encoder(tmp_path / name).state_dict() for name in ("short", "long")))


def test_when_an_encoder_is_frozen() -> None:
    for pretrained, baseline, freeze, expected in [
        ("run", None, 0.5, [True, True, False]), ("run", None, 1.0, [True] * 3), ("run", None, 0.0, [False] * 3),
        (None, None, 0.5, [False] * 3), (None, None, 1.0, [True] * 3), ("run", "random", 0.0, [True] * 3),
        ("run", "scratch", 0.5, [False] * 3),
    ]:  # fmt: skip
        config = FinetuneConfig(pretrained=pretrained, baseline=baseline, freeze=freeze)  # type: ignore[arg-type]
        assert [is_frozen(config, progress) for progress in (0.1, 0.5, 0.9)] == expected
