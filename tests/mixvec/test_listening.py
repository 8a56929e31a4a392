"""Streams: text, words and their times, ends by silence, batches of many, and what stays constant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixvec import CtcRecognizer, UserError
from mixvec.listening import LONGEST_S, ListenConfig, Listener, Result, Session, streaming_model
from mixvec.transcript import Transcript
from tests.tiny_models import classifier, recogniser
from tests.tones import GAP_S, RATE_HZ, TONE_MODEL, TONE_S, loaded, sound
from tools.decode import prefix_beam

CPU = torch.device("cpu")
TALK = "..bab a ab....ab ba b..a."
SAID = ["bab a ab", "ab ba b", "a"]


@pytest.fixture(scope="module")
def model() -> CtcRecognizer:
    return loaded()


def heard(listener: Listener, wave: Tensor, cut: int = 800) -> list[Result]:
    return list(listener.listen(wave.split(cut)))


def final(results: list[Result]) -> list[str]:
    return [result.text for result in results if result.final]


@pytest.mark.parametrize("chunk_ms", [320, 640])
def test_speech_is_recognised_in_results_that_end_in_pauses(model: CtcRecognizer, chunk_ms: int) -> None:
    results = heard(Listener(model, ListenConfig(chunk_ms), CPU), sound(TALK, 77))
    assert final(results) == SAID
    partial = [result.text for result in results if not result.final]
    assert len(partial) >= 4 and partial[0] != SAID[0] and SAID[0].startswith(partial[0])
    letters = [(at, letter) for at, letter in begins(TALK) if letter != " "]
    words = [word for result in results if result.final for word in result.words]
    for word in words:  # each begins and ends where its first and last tone do, to a frame of 40 ms
        at, letter = letters.pop(0)
        assert word.start_s == pytest.approx(at, abs=0.06) and word.word[0] == letter
        for letter in word.word[1:]:
            at, expected = letters.pop(0)
            assert letter == expected
        assert word.end_s == pytest.approx(at + TONE_S, abs=0.1)
        assert 0.5 < word.confidence <= 1
    assert not letters


def begins(text: str) -> list[tuple[float, str]]:
    """When the tone of each letter begins."""
    at, found = 0.0, []
    for letter in text:
        if letter != ".":
            found.append((at, letter))
        at += 0.5 if letter == "." else TONE_S + GAP_S
    return found


@pytest.mark.parametrize("beam", [None, 3])
def test_the_text_is_that_of_the_whole_recording_in_chunks(model: CtcRecognizer, beam: int | None) -> None:
    """Without a pause that ends it, whatever the cuts; beam search, chunk by chunk, too."""
    wave = sound("ab ba.b a", 5)
    listener = Listener(model, ListenConfig(640, 2, beam, silence_s=9.0), CPU)
    model.encoder.context = listener.context
    log_probs, lengths = model(wave.unsqueeze(0))
    model.encoder.context = None
    tokens = prefix_beam([log_probs[0].detach()], beam)[0] if beam else None
    expected = model.spell(tokens) if tokens else model.decode(log_probs, lengths)[0]
    for cut in (7, 801, 40_000, len(wave)):
        assert final(heard(listener, wave, cut)) == [expected]


def test_many_streams_at_once_give_what_each_gives_alone(model: CtcRecognizer) -> None:
    texts = ["ab ba..b", "b.a.b...ab", ".aa", "bb a..." * 3, "a"]
    listener, waves = Listener(model, ListenConfig(320, 4), CPU), [sound(text, n) for n, text in enumerate(texts)]
    found: list[list[Result]] = [[] for _ in texts]
    sessions = [Session(listener) for _ in texts]
    for step in range(400):
        for number, (session, wave) in enumerate(zip(sessions, waves, strict=True)):
            late = step - 3 * number  # each begins later than the one before, and comes in its own cuts
            cut = 900 + 100 * number
            if late >= 0:
                session.feed(wave[late * cut : (late + 1) * cut])
                if (late + 1) * cut >= len(wave):
                    session.close()
        ready = [session for session in sessions if session.ready]
        for session, results in zip(ready, listener.advance(ready), strict=True):
            found[sessions.index(session)] += results
    assert all(session.done for session in sessions)
    for results, wave in zip(found, waves, strict=True):
        alone = heard(listener, wave)
        assert [(r.text, r.final, r.start_s) for r in results] == [(r.text, r.final, r.start_s) for r in alone]


def test_positions_and_memory_stay_bounded_in_silence_and_in_speech_without_a_pause(model: CtcRecognizer) -> None:
    listener = Listener(model, ListenConfig(1280), CPU)
    for block in (torch.zeros(RATE_HZ), sound("ab", 3)[: RATE_HZ // 2]):
        session, results, longest = Session(listener), list[Result](), 0.0
        for _ in range(140 * RATE_HZ // len(block)):
            session.feed(block)
            while session.ready:
                results += listener.advance([session])[0]
                if session.state:
                    longest = max(longest, float(session.state["encoded"]) * listener.frame_s)
        assert longest <= LONGEST_S + 1.28
        assert all(r.end_s - r.start_s <= LONGEST_S + 1.28 for r in results)
        if block.any():
            assert [r.start_s for r in results if r.final] == pytest.approx([0.0, 60.0], abs=2.0)
        else:
            assert results == [] and longest < 2 * 1.28


def test_words_from_parts_of_words() -> None:
    transcript = Transcript(["[PAD]", "▁he", "l", "▁", "o"])
    for token in [1, 1, 0, 2, 0, 2, 4, 0, 3, 4]:
        probabilities = torch.full((5,), 0.05)
        probabilities[token] = 0.8 - 0.2 * (token == 4)
        transcript.extend(probabilities.log().unsqueeze(0))
    first, second = transcript.words(10.0, 0.1)
    assert (first.word, first.start_s, first.end_s) == ("hello", 10.0, 10.7)
    assert first.confidence == pytest.approx((3 * 0.8 + 0.6) / 4, abs=1e-3)
    assert (second.word, second.start_s, second.confidence) == ("o", 10.9, 0.6)
    assert len(transcript.path) == 10 and transcript.blanks == 0


def test_what_cannot_listen_is_refused(model: CtcRecognizer) -> None:
    with pytest.raises(UserError, match=r"M: .*streaming=true.*--force"):
        streaming_model(recogniser(), "M", False)
    with pytest.raises(UserError, match=r"M: a Classifier"):
        streaming_model(classifier(), "M", True)
    lstm = CtcRecognizer(model.encoder, model.vocabulary, kind="lstm", width=8)
    with pytest.raises(UserError, match=r"M: cannot stream"):
        streaming_model(lstm, "M", True)
    with pytest.raises(ValueError, match=r"head\.kind=lstm"):
        lstm.stream(torch.zeros(1, 9_000))
    with pytest.raises(UserError, match=r"--chunk-ms 30 .*32\.5 ms.*at least 40"):
        Listener(model, ListenConfig(30), CPU)
    with pytest.raises(UserError, match="--left-chunks -1"):
        ListenConfig(left_chunks=-1)
    with pytest.raises(UserError, match=r"--silence-s 0\.1"):
        ListenConfig(silence_s=0.1)


def test_forced_an_offline_model_listens_with_measured_constants() -> None:
    offline = recogniser()
    forced = streaming_model(offline, "M", True)
    assert forced.encoder.config.normalise == "fixed"  # type: ignore[union-attr]
    listener = Listener(forced, ListenConfig(), CPU)
    assert not listener.measured
    listener.measure(sound(TALK, 1))
    assert listener.measured and forced.encoder.front_end.gain > 16.5  # type: ignore[union-attr]
    assert isinstance(heard(listener, sound("ab", 1)), list)
    assert Listener(streaming_model(loaded(), TONE_MODEL, False), ListenConfig(), CPU).measured
