"""Our folders in other frameworks: fairseq2's families and trainer, s3prl's upstream, torch.hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from fairseq2 import init_fairseq2
from fairseq2.models import load_model
from fairseq2.nn import BatchLayout

from mixvec import CtcRecognizer, SpeechEncoder, UserError
from mixvec.fairseq2_family import MixvecAsrModel, card_of, register
from mixvec.hub import format_2, load_encoder, save_folder
from mixvec.s3prl_expert import UpstreamExpert
from tests.tiny_models import classifier, encoder, recogniser, speech

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recogniser, a classifier and an encoder. Read-only; fairseq2 knows the families."""
    folder = tmp_path_factory.mktemp("models of é")
    torch.manual_seed(1)
    for name, model in (("asr", recogniser()), ("intent", classifier()), ("enc", encoder())):
        save_folder(model, folder / name)
    installed = any(entry.name == "mixvec" for entry in entry_points(group="fairseq2.extension"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq2.runtime.dependency._resolver", None)  # another test may have started fairseq2
        init_fairseq2(extras=None if installed else register)
        yield folder


def fairseq2_frames(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(*speech()).frames  # type: ignore[no-any-return]


def test_fairseq2_loads_a_recogniser_by_its_card(models: Path) -> None:
    loaded, own = load_model(card_of(models / "asr")), CtcRecognizer.from_pretrained(models / "asr")
    assert isinstance(loaded, MixvecAsrModel) and loaded.vocabulary == own.vocabulary
    waveforms, lengths = speech()
    layout, targets = BatchLayout((2, 12_000), lengths.tolist()), torch.tensor([[2, 3], [4, 2]])
    with torch.no_grad():
        log_probs, frames = loaded.eval()(waveforms, layout)
        expected, expected_lengths = own(waveforms, lengths)
        loss = loaded(waveforms, layout, targets, BatchLayout((2, 2), [2, 1]))
    assert torch.equal(log_probs, expected) and list(frames.seq_lens) == expected_lengths.tolist()
    ctc = torch.nn.CTCLoss(reduction="sum")(log_probs.transpose(0, 1), targets, expected_lengths, torch.tensor([2, 1]))
    torch.testing.assert_close(loss, ctc)
    assert loaded.transcribe(waveforms) == own.transcribe(waveforms)
    with pytest.raises(ValueError, match="packed"):
        loaded(waveforms[0], BatchLayout((12_000,), [12_000], packed=True))


@pytest.mark.parametrize("name", ["enc", "intent"])
def test_fairseq2_loads_the_encoder_of_any_model(models: Path, name: str) -> None:
    loaded = load_model(card_of(models / name), dtype=torch.float32)
    assert isinstance(loaded, SpeechEncoder)
    assert torch.equal(fairseq2_frames(loaded.eval()), fairseq2_frames(load_encoder(models / name)))
    with pytest.raises(UserError, match="nowhere"):
        card_of(models / "nowhere")


def test_fairseq2_takes_recognisers_of_format_1() -> None:
    tensors = format_2({"norm.weight": 1, "encoder.norm.weight": 2})
    assert tensors == {"head_norm.weight": 1, "encoder.norm.weight": 2}


@pytest.mark.slow
def test_fairseq2_trains_a_model_that_it_finds_by_name(models: Path, tmp_path: Path) -> None:
    """As users do it: the entry point of pyproject.toml, a card in a folder, fairseq2's own Trainer."""
    stated = re.search(r'"fairseq2.extension"\]\n(\S+ = )"(\S+)"', (ROOT / "pyproject.toml").read_text())
    assert stated
    installed = tmp_path / "site" / "mixvec-0.1.0.dist-info"  # precedes the installed one, which may be older
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mixvec\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(f"[fairseq2.extension]\n{stated[1]}{stated[2]}\n")
    environment = os.environ | {
        "PYTHONPATH": f"{installed.parent}{os.pathsep}{ROOT}", "FAIRSEQ2_EXTENSION_TRACE": "1",
        "FAIRSEQ2_USER_ASSET_DIR": str(tmp_path / "cards"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    (tmp_path / "cards").mkdir()
    card = run("mixvec.fairseq2_family", "my_asr", str(models / "asr"))
    (tmp_path / "cards" / "my_asr.yaml").write_text(card)
    printed = run("tests.fairseq2_recipe", "my_asr", str(tmp_path / "out"))
    losses = [float(loss) for loss in re.findall(r"^loss (\S+)$", printed, re.MULTILINE)]
    assert len(losses) == 3 and losses[2] < losses[0]
    assert "named MixvecAsrModel" in printed


def test_s3prl_takes_the_encoder_as_an_upstream(models: Path) -> None:
    """The interface of s3prl: a list of waveforms in, every layer out, padded alike."""
    upstream, own = UpstreamExpert(str(models / "intent")), load_encoder(models / "intent")
    waveforms, lengths = speech()
    with torch.inference_mode():
        found = upstream([row[:length] for row, length in zip(waveforms, lengths.tolist(), strict=True)])
        expected = own(waveforms, lengths)
        short = upstream([torch.randn(10)])["last_hidden_state"]
    assert all(map(torch.equal, found["hidden_states"], expected.layers)) and short.shape[:2] == (1, 1)
    assert len(found["hidden_states"]) == own.num_layers + 1
    assert upstream.get_downsample_rates("hidden_states") == own.hop_samples


def test_torch_hub_loads_from_the_repository(models: Path) -> None:
    for entry, kind in (("encoder", SpeechEncoder), ("model", CtcRecognizer)):
        loaded = torch.hub.load(str(ROOT), entry, str(models / "asr"), source="local")
        assert isinstance(loaded, kind)
