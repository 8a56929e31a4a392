"""Waveforms as people have them: arrays, lists, integers, files, another rate; and those that cannot be right."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixvec import CtcRecognizer, SpeakerEmbedder, SpeechEncoder, build_encoder
from mixvec.audio import read_audio
from mixvec.resample import resample
from tests.tiny_models import MEL, classifier, encoder, recogniser, scattered, write_wav


@pytest.fixture(scope="module")
def model() -> CtcRecognizer:
    torch.manual_seed(1)
    return recogniser()


@pytest.fixture(scope="module")
def wave() -> Tensor:
    return 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(1))


def same(model: CtcRecognizer, given: Any, waveform: Tensor, **rest: Any) -> None:
    """The log-probabilities of what is given are those of a batch of the one waveform."""
    with torch.no_grad():
        (found,), (wanted,) = model(given, **rest)[0], model(waveform.unsqueeze(0))[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_arrays_lists_and_integers(model: CtcRecognizer, wave: Tensor) -> None:
    forms = (wave, wave.numpy(), wave.tolist(), wave.double().numpy()[None], [wave], [wave.tolist()], (wave.numpy(),))
    for given in forms:
        same(model, given, wave)
    pcm = (wave * 32_768).round()
    for given in (pcm.short(), pcm.short().numpy()[None], (pcm.int() * 65_536).numpy()):
        same(model, given, pcm / 32_768)
    same(model, (wave * 128 + 128).round().to(torch.uint8), (wave * 128).round() / 128)


def test_waveforms_of_several_lengths_are_padded(model: CtcRecognizer, wave: Tensor) -> None:
    together = model.transcribe([wave, wave[:5_000].numpy(), wave[2_000:].tolist()])
    assert together == [model.transcribe(part)[0] for part in (wave, wave[:5_000], wave[2_000:])]
    assert model.transcribe(wave.numpy()[None].repeat(2, 0), [8_000, 5_000]) == together[:2]


def test_files_and_rates(model: CtcRecognizer, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a é.wav", 0.7, 22_050)
    waveform = read_audio(file)
    for given in (file, str(file), [file]):
        same(model, given, waveform)
    other = 0.1 * torch.randn(12_000)
    same(model, other.numpy(), resample(other, 22_050), sampling_rate=22_050)
    same(model, other.unsqueeze(0), resample(other, 8_000), sampling_rate=8_000)
    same(model, other, other, sampling_rate=16_000)
    assert classifier().understand(file)[0].keys() == {"lights on", "lights off", "musik läuter"}
    embedder: SpeakerEmbedder = scattered(SpeakerEmbedder(build_encoder(MEL), ["a", "b"]))
    assert embedder.embed([file, file]).shape[0] == 2
    frames = SpeechEncoder(MEL).eval()(file).frames
    assert frames.shape[0] == 1


@pytest.mark.parametrize(
    ("given", "lengths", "rate", "named"),
    [
        (np.zeros((2, 8_000), np.float32), [8_000, 9_000], None, r"lengths\[1\]=9000.*8000"),
        (torch.zeros(2, 8_000), [8_000, 9_000], None, r"lengths\[1\]=9000.*8000"),
        (torch.zeros(2, 8_000), [8_000, -1], None, r"lengths\[1\]=-1"),
        (torch.zeros(2, 8_000), [0, 8_000], None, r"lengths\[0\]=0"),
        (np.zeros((2, 8_000)), [8_000, 200], None, r"lengths\[1\]=200"),
        (torch.zeros(2, 8_000), [8_000], None, r"\(1,\)"),
        ([np.zeros(8_000), np.zeros(200)], None, None, r"lengths\[1\]=200"),
        ([np.zeros(8_000), np.zeros(0)], None, None, "waveform 1"),
        ([], None, None, "empty"),
        (np.zeros(0), None, None, "waveform 0"),
        (np.full(8_000, np.nan), None, None, "waveform 0 .*not finite"),
        (np.zeros(8_000, complex), None, None, "waveform 0"),
        (np.zeros(8_000, bool), None, None, "waveform 0"),
        ([[0.0, [1.0]]], None, None, "waveform 0"),
        ([0, 1, 2] * 3_000, None, None, "waveform 0 .*64-bit"),
        (np.zeros((2, 3, 8_000)), None, None, r"\(2, 3, 8000\)"),
        (b"RIFF", None, None, "bytes"),
        (torch.zeros(1, 100), None, None, "100 samples"),
        (np.zeros(8_000), None, 0, "sampling_rate=0"),
        (np.zeros(8_000), None, -16_000, "sampling_rate=-16000"),
        (np.zeros(8_000), None, True, "sampling_rate=True"),
        (torch.zeros(1, 8_000), None, 10**9, "sampling_rate=1000000000"),
        ("speech.wav", None, 8_000, r"speech\.wav.*sampling_rate=8000"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_named(model: CtcRecognizer, given: Any, lengths: Any, rate: Any, named: str) -> None:
    lengths = None if lengths is None else torch.tensor(lengths)
    with pytest.raises(ValueError, match=named):
        model.transcribe(given, lengths, rate)


def test_bytes_are_no_file_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"io\.BytesIO"):
        read_audio(write_wav(tmp_path / "a.wav").read_bytes())  # type: ignore[arg-type]


def test_a_copied_and_a_pickled_model_give_the_same(wave: Tensor) -> None:
    for made in (recogniser(), classifier(), encoder()):
        made(wave)  # with what is cached at the first call
        again = [copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
        with torch.no_grad():
            for other in again:
                assert torch.equal(outcome(other, wave), outcome(made, wave))


def outcome(model: nn.Module, waveform: Tensor) -> Tensor:
    made = model(waveform)
    return made if isinstance(made, Tensor) else made[0]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantized_and_compiled_models_work(model: CtcRecognizer, wave: Tensor) -> None:
    """int8 moves the outputs by little; a graph without breaks moves them by rounding."""
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert any("quantized" in type(module).__module__ for module in quantized.modules())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    batch, lengths = torch.stack([wave, wave]), torch.tensor([8_000, 6_000])
    with torch.no_grad():
        wanted = outcome(model, wave)
        assert 0 < float((outcome(quantized, wave) - wanted).abs().max()) < 0.5
        torch.testing.assert_close(outcome(compiled, batch[:1]), wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(compiled(batch, lengths)[0], model(batch, lengths)[0], rtol=0, atol=1e-4)
