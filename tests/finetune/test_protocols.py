"""The configurations of published protocols, each run as its header says, on tiny corpora laid out like the real."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from finetune.train import train
from mixvec import SpeechEncoder
from mixvec.training.config import load_config
from tests.runs import ROOT, fresh, written
from tests.tiny_models import encoder
from tests.voice_corpora import aishell, common_voice, iemocap, libri_light, librispeech, tedlium, trial_list, voxceleb

CONFIGS = sorted(
    path for folder in ("librispeech", "mp3s", "scratch") for path in (ROOT / "configs" / folder).glob("*.yaml")
)
BRIEF = ["run.updates=1", "run.eval_every=1", "run.log_every=1", "batch.update_s=4", "data.workers=0",
         "run.precision=fp32"]  # fmt: skip
SMALLER = {
    "mp3s": ["head.width=16", "asr.vocabulary_size=12"],
    "scratch": ["encoder.dim=16", "encoder.num_layers=1", "encoder.ffn_dim=32", "encoder.conv_channels=16",
                "asr.decoder_layers=1"],
}  # fmt: skip
SCORES = {"asr": "wer", "speaker": "eer", "emotion": "unweighted_accuracy"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, unpacked where the headers' commands look for them."""
    root = tmp_path_factory.mktemp("archives")
    libri_light(root / "librispeech_finetuning")
    for split in ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean"):
        librispeech(root / "LibriSpeech", split)
    common_voice(root / "cy")
    common_voice(root / "eu")
    common_voice(root / "nl")
    aishell(root / "data_aishell")
    tedlium(root / "TEDLIUM_release2")
    voxceleb(root / "VoxCeleb1/dev", speakers=2)
    voxceleb(root / "VoxCeleb1/test", speakers=2, first=21)
    trial_list(root / "VoxCeleb1/veri_test2.txt", first=21)
    iemocap(root / "IEMOCAP_full_release", sentences=1)
    made = encoder()
    assert isinstance(made, SpeechEncoder)
    made.save_pretrained(root / "RUN/hub")
    return root


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_command_of_the_header_runs(
    path: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "".join(line.removeprefix("#") for line in path.read_text().splitlines(True) if line.startswith("#"))
    (command,) = re.findall(r"python -m finetune (.*(?:\n       .*)*)", header)
    config, *words = shlex.split(command.replace("\n", " "))
    assert ROOT / config == path
    monkeypatch.chdir(archives)
    small = [
        *BRIEF,
        f"run.dir={tmp_path}",
        *SMALLER.get(path.parent.name, []),
        *(["asr.vocabulary_size=9"] if path.parent.name == "scratch" and "units: unigram" in path.read_text() else []),
    ]
    fresh()
    with written():
        assert train(load_config(FinetuneConfig, [str(path), *words, *small], "")) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["test"][SCORES[results["task"]]] >= 0


@pytest.mark.parametrize("name", ["asr", "intent", "speaker", "emotion", "language"])
def test_the_probes_are_frozen_and_weigh_all_layers(name: str) -> None:
    config = load_config(FinetuneConfig, [str(ROOT / f"configs/probe/{name}.yaml"), "pretrained=RUN"], "")
    assert config.freeze == 1 and config.head.layers == "weighted"
    assert config.augment.time_prob == config.augment.channel_prob == 0 and config.crop_s is None
