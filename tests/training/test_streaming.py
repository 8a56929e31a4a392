"""Learning to stream: what is drawn, the constants that are measured, and the invariants of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mixvec import CtcRecognizer, SpeechEncoder, UserError
from mixvec.audio import read_audio
from mixvec.model.context import Context
from mixvec.model.frontend import UNMEASURED_GAIN
from mixvec.training.optim import draw_context
from tests.pretrain.test_train import stop_after
from tests.runs import PRETRAIN, SMALLEST, UNITS, finetune, identical, largest_difference, pretrain, weights

STREAM = ("encoder.streaming=true", "run.updates=4", "run.save_every=2")


def test_contexts_are_drawn_in_the_stated_shares() -> None:
    drawn = [draw_context(np.random.default_rng([0, update, 9]), 25.0) for update in range(4000)]
    chunked = [context for context in drawn if context is not None]
    assert len(chunked) / len(drawn) == pytest.approx(0.6, abs=0.03)
    assert {context.chunk_frames for context in chunked} == set(range(8, 33))
    limited = [context.left_chunks for context in chunked if context.left_chunks is not None]
    assert len(limited) / len(chunked) == pytest.approx(0.75, abs=0.03)
    assert set(limited) == set(range(2, 33))


@pytest.mark.slow
@pytest.mark.parametrize("base", [PRETRAIN, UNITS], ids=["contrastive", "units"])
def test_a_run_that_learns_to_stream_keeps_the_promises(corpus: Path, tmp_path: Path, base: list[str]) -> None:
    assert pretrain(corpus, tmp_path / "whole", *STREAM, base=base) == 0
    stop_after(2, corpus, tmp_path / "resumed", *STREAM, base=base)
    assert pretrain(corpus, tmp_path / "resumed", *STREAM, base=base) == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert pretrain(corpus, tmp_path / "parts", *STREAM, "batch.max_s=10", base=base) == 0
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) < 1e-4
    encoder = SpeechEncoder.from_pretrained(tmp_path / "whole").eval()
    assert encoder.config.normalise == "fixed" and encoder.front_end.gain != UNMEASURED_GAIN


def test_an_offline_encoder_is_fine_tuned_to_stream(corpus: Path, tmp_path: Path) -> None:
    assert pretrain(corpus, tmp_path / "pretrained", "run.updates=1") == 0
    keys = (f"pretrained={tmp_path}/pretrained", "streaming=true", "run.updates=2", "run.eval_every=2")
    assert finetune("asr", corpus, tmp_path / "run", *keys) == 0
    model = CtcRecognizer.from_pretrained(tmp_path / "run").eval()
    assert model.encoder.config.streaming and float(model.encoder.front_end.gain) != UNMEASURED_GAIN
    audio = read_audio(next((corpus / "asr/test").rglob("*.flac"))).unsqueeze(0)
    model.encoder.context = context = Context(8, 2)
    whole = model.transcribe(audio)[0]
    state, text = None, ""
    for first in range(0, audio.shape[1], 1234):
        piece = audio[:, first : first + 1234]
        (new,), state = model.stream(piece, state, context, final=first + 1234 >= audio.shape[1])
        text += new
    assert " ".join(text.split()) == whole
    again = (f"pretrained={tmp_path}/run", *keys[1:])
    assert finetune("asr", corpus, tmp_path / "again", *again) == 0
    other = CtcRecognizer.from_pretrained(tmp_path / "again")
    assert torch.equal(other.encoder.front_end.gain, model.encoder.front_end.gain)  # kept, not measured again


def test_what_cannot_learn_to_stream_is_refused(corpus: Path, tmp_path: Path) -> None:
    assert pretrain(corpus, tmp_path / "pretrained", "run.updates=1") == 0
    config = json.loads((tmp_path / "pretrained/hub/config.json").read_text())
    assert config["encoder"]["streaming"] is False
    with pytest.raises(UserError, match=r"encoder\.streaming"):
        pretrain(
            corpus, tmp_path / "run", "encoder.streaming=true", "encoder.kind=wav2vec2", "encoder.front_end=waveform"
        )
    with pytest.raises(UserError, match="streaming"):
        finetune("asr", corpus, tmp_path / "asr", "size=tiny", *SMALLEST, "streaming=true", "baseline=log-mel")
