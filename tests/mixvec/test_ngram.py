"""mixvec transcribe --lm: the text that an n-gram demands, its words' times, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import soundfile

from mixvec.hub import save_folder
from mixvec.ngram import NgramBeam
from mixvec.text import TEXT_STYLES
from tests.arpa import write_bigrams
from tests.commands import Result, Run
from tests.tones import RATE_HZ, TONE_MODEL, loaded, sound


@pytest.fixture
def asked(run: Run, tmp_path: Path) -> Run:
    """Transcribes the tones of "ab ba" with a model of normalised texts and further words."""
    soundfile.write(tmp_path / "x.wav", sound("ab ba").numpy(), RATE_HZ)
    save_folder(loaded(), tmp_path / "model", {"text.normalise": "basic"})

    def transcribe(*words: object, model: Path = tmp_path / "model") -> Result:
        return run("transcribe", "--model", model, tmp_path / "x.wav", *words)

    return transcribe


def test_the_words_are_those_of_the_n_gram_and_its_weights_count(asked: Run, tmp_path: Path) -> None:
    assert asked().out == "ab ba\n"
    two = ("--lm", write_bigrams(tmp_path / "two.arpa", ["ab bb", "ab bb", "ab ab"]))
    assert set(asked(*two).out.split()) == {"ab", "bb"}
    assert asked(*two, "--word-score", -20).out == "ab bb\n"
    three = ("--lm", write_bigrams(tmp_path / "three.arpa", ["ab bb"] * 20 + ["ab ba"]))
    done = asked(*three)
    assert (done.code, done.out, done.err) == (0, "ab ba\n", "")
    assert asked(*three, "--lm-weight", 50).out == "ab bb\n"
    assert asked(*three, "--lm-weight", 50, "--beam", 1).code == 0


def test_the_times_of_words_that_greedy_search_does_not_find(asked: Run, tmp_path: Path) -> None:
    words = ("--lm", write_bigrams(tmp_path / "x.arpa", ["ab bb"]), "--word-score", -20)
    row = json.loads(asked(*words, "--json").out)
    first, second = row["words"]
    assert (row["text"], first["word"], second["word"]) == ("ab bb", "ab", "bb")
    times = [first["start_s"], first["end_s"], second["start_s"]]
    assert times == pytest.approx([0.0, 0.56, 1.08], abs=0.05)  # a letter every 0.36 s
    assert 1.44 < second["end_s"] < 1.69, "in the last tone, which sounds like another letter"
    assert second["confidence"] < 0.6 < 0.9 < first["confidence"]
    assert asked(*words, "--srt").out.splitlines()[2] == "ab bb"


def test_words_are_normalised_as_the_texts_were(asked: Run, tmp_path: Path) -> None:
    capitals = ("--lm", write_bigrams(tmp_path / "x.arpa", ["AB BA", "Ω BA"]))
    done = asked(*capitals)
    assert (done.code, done.out) == (0, "ab ba\n")
    assert len(done.err.splitlines()) == 1 and "skipped 1 of 3 words, such as 'Ω'" in done.err
    assert asked(*capitals, model=TONE_MODEL).out == "ab ba\n", "a model that does not state how"
    for facts in ({"text.normalise": "none"}, {"text": TEXT_STYLES["none"]}):  # the latter of earlier versions
        save_folder(loaded(), tmp_path / "none", facts)
        done = asked(*capitals, model=tmp_path / "none")
        assert done.code == 1 and "none of its 3 words" in done.err and "text.normalise=none" in done.err


def test_the_hub_is_asked_for_the_model_once(asked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def download(name: str, **_: object) -> str:
        names.append(name)
        return str(tmp_path / "model")

    monkeypatch.setattr("mixvec.locate.snapshot_download", download)
    done = asked("--lm", write_bigrams(tmp_path / "x.arpa", ["ab bb"]), model=Path("org/model"))
    assert (done.code, names) == (0, ["org/model"])


@pytest.mark.slow
def test_an_exported_model_is_searched_alike(asked: Run, run: Run, tmp_path: Path) -> None:
    save_folder(loaded(), tmp_path / "none", {"text.normalise": "none"})
    words = ("--lm", write_bigrams(tmp_path / "x.arpa", ["AB BB", "ab bb"]), "--word-score", -20)
    assert run("export", "--model", tmp_path / "none", "--to", tmp_path / "x.onnx").code == 0
    done = asked(*words, model=tmp_path / "x.onnx")
    assert (done.code, done.out) == (0, "ab bb\n") and "skipped 2 of 4 words" in done.err


def test_what_cannot_be_searched_is_one_line(
    asked: Run, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_bigrams(tmp_path / "good.arpa", ["ab ba"])
    for name, content in (("bad", "\\data\\\n\\1-grams:\n-1\tab\nno number\tba\tc\n"), ("text", "ab ba\n")):
        (tmp_path / f"{name}.arpa").write_text(content)
    greek = write_bigrams(tmp_path / "greek.arpa", ["Ωμέγα"])
    for words, message in (
        (("--lm", tmp_path / "gone.arpa"), "gone.arpa: no such file"),
        (("--lm", tmp_path / "bad.arpa"), "bad.arpa: KenLM cannot read it (count line"),
        (("--lm", tmp_path / "text.arpa"), "text.arpa: no words of an n-gram"),
        (("--lm", greek), "greek.arpa: none of its 1 words can be tokenized"),
        (("--lm-weight", 2), "--lm-weight is of the search with an n-gram"),
        (("--beam", 2), "--beam is of the search with an n-gram"),
    ):
        done = asked(*words)
        assert (done.code, done.out) == (1, "") and message in done.err and len(done.err.splitlines()) == 1
    done = asked("--lm", good, model=models / "intent")
    assert done.code == 1 and "transcribe needs a CtcRecognizer" in done.err and len(done.err.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    done = asked("--lm", good)
    assert done.code == 1 and "pip install flashlight-text" in done.err and len(done.err.splitlines()) == 1


def test_kenlm_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    NgramBeam(write_bigrams(tmp_path / "x.arpa", ["ab ba"]), {"ab": [1, 2], "ba": [2, 1]}, ["[PAD]", "a", "b", "|"])
    assert capfd.readouterr() == ("", "")
