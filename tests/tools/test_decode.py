"""python -m tools.decode on tiny runs: beam, n-grams, sweeps, what is refused; the word beam against brute force."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from mixvec import CtcRecognizer, UserError, cli
from mixvec.audio import read_audio
from mixvec.errors import run_cli
from mixvec.ngram import NgramBeam, tokenize_words, words_of
from mixvec.text import Tokenizer, build_vocabulary, normalise_text
from tests.arpa import log10, read, write_bigrams
from tests.commands import Run, in_process
from tests.runs import SMALLEST, finetune
from tools import decode, publish

KEYS = ("size=tiny", *SMALLEST, "run.updates=10", "run.eval_every=10", "optim.lr=5e-3", "augment.time_prob=0")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(decode.main), monkeypatch, capsys)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pieces, whose space is not an entry of its own."""
    folder = tmp_path_factory.mktemp("runs") / "asr"
    units = ("asr.units=unigram", "asr.vocabulary_size=30", f"data.test={corpus}/asr/test")
    assert finetune("asr", corpus, folder, *KEYS, *units) == 0
    model = CtcRecognizer.from_pretrained(folder)
    with torch.no_grad():
        model.output.bias[0] -= 4.0  # so early in training it would say nothing
    model.save_pretrained(folder / "hub")
    return folder


@pytest.fixture(scope="module")
def lm(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bigrams of the training text."""
    lines = (corpus / "asr/train/metadata.jsonl").read_text().splitlines()
    texts = [normalise_text(json.loads(line)["text"], "basic") for line in lines]
    return write_bigrams(tmp_path_factory.mktemp("lm") / "lm.arpa", texts)


def test_a_beam_and_an_n_gram_of_the_training_text(run: Path, lm: Path, decoded: Run) -> None:
    done = decoded(run, "--beam", "3")
    assert done.code == 0 and "test-beam.jsonl" in done.out and "2 is better with probability" in done.out
    greedy = [json.loads(line) for line in (run / "test-greedy.jsonl").read_text().splitlines()]
    model = CtcRecognizer.from_pretrained(run)
    assert len(greedy) == 4 and any(row["prediction"] for row in greedy)
    for row in greedy:
        assert model.transcribe(read_audio(row["source"]).unsqueeze(0)) == [row["prediction"]]
    done = decoded(run, "--lm", lm, "--sweep", "--beam", "20")
    assert done.code == 0, done.err
    assert "chosen: --lm-weight" in done.out
    results = json.loads((run / "decode.json").read_text())
    assert len(results["sweep"]) == 36 and results["split"] == "test"
    assert results["searched"]["wer"] <= results["greedy"]["wer"]
    lines = (run / "test-lm.jsonl").read_text().splitlines()
    predicted = {word for line in lines for word in json.loads(line)["prediction"].split()}
    assert predicted and predicted <= set(words_of(lm))


def test_transcribe_searches_as_decode_does(
    run: Path, lm: Path, decoded: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    transcribe = in_process(cli.main, monkeypatch, capsys)
    words = ("--lm", lm, "--lm-weight", 2, "--word-score", 1, "--beam", 20)
    assert decoded(run, *words).code == 0
    rows = [json.loads(line) for line in (run / "test-lm.jsonl").read_text().splitlines()]
    asked = ("transcribe", "--json", "--no-gate", "--model", run, *(row["source"] for row in rows))
    done = transcribe(*asked, *words)
    found = [json.loads(line) for line in done.lines]
    assert (done.code, done.err) == (0, "")
    assert [row["text"] for row in found] == [row["prediction"] for row in rows] and any(row["text"] for row in found)
    assert [row["text"] for row in found] != [json.loads(line)["text"] for line in transcribe(*asked).lines]
    assert all([word["word"] for word in row["words"]] == row["text"].split() for row in found)
    published = tmp_path / "published"
    assert in_process(lambda: run_cli(publish.main), monkeypatch, capsys)(run, "--to", published).code == 0
    for folder in (run / "hub", published):
        assert transcribe(*(folder if word is run else word for word in asked), *words).out == done.out
    assert (published / "tokenizer.model").read_bytes() == (run / "tokenizer.model").read_bytes()
    (published / "tokenizer.model").unlink()
    done = transcribe(*(published if word is run else word for word in asked), *words)
    assert done.code == 1 and f"{published}/tokenizer.model: missing" in done.err and len(done.err.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    done = transcribe(*asked, *words)
    assert done.code == 1 and "pip install sentencepiece" in done.err and len(done.err.splitlines()) == 1


def test_an_n_gram_in_upper_case_and_one_in_another_alphabet(run: Path, lm: Path, decoded: Run, tmp_path: Path) -> None:
    assert decoded(run, "--lm", lm).code == 0
    lower = (run / "test-lm.jsonl").read_text()
    lines = [line.split("\t") for line in lm.read_text().splitlines()]
    for line in lines:
        line[1:2] = [" ".join(w if w.startswith("<") else w.upper() for w in line[1].split())] if len(line) > 1 else []
    (tmp_path / "upper.arpa").write_text("".join("\t".join(line) + "\n" for line in lines))
    done = decoded(run, "--lm", tmp_path / "upper.arpa")
    assert done.code == 0
    assert (run / "test-lm.jsonl").read_text() == lower
    done = decoded(run, "--lm", write_bigrams(tmp_path / "greek.arpa", ["Ωμέγα"]))
    assert done.code == 1 and "none of its 1 words" in done.err and len(done.err.splitlines()) == 1


def test_audio_that_cannot_be_decoded_counts_as_errors(
    run: Path, lm: Path, decoded: Run, corpus: Path, tmp_path: Path
) -> None:
    """Its header and its end are whole, so that it is found, and missed when it is read."""
    good = sorted((corpus / "asr/test/audio").iterdir())[0]
    content = bytearray(good.read_bytes())
    first, end = 3 * len(content) // 10, len(content) // 2
    content[first:end] = bytes(end - first)
    (tmp_path / "cut.flac").write_bytes(content)
    rows = [{"file_name": str(name), "text": "stop the music"} for name in (good, tmp_path / "cut.flac")]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in ((), ("--lm", lm)):
        done = decoded(run, *words, f"data.test={tmp_path}/two.jsonl")
        assert done.code == 0 and "1 utterances cannot be decoded and count as errors" in done.out, done
        said = [json.loads(x) for x in (run / f"test-{'lm' if words else 'beam'}.jsonl").read_text().splitlines()]
        assert [row["prediction"] for row in said if row["source"].endswith("cut.flac")] == [""]


def test_what_cannot_be_decoded_is_one_line(run: Path, lm: Path, decoded: Run, tmp_path: Path) -> None:
    for words, message in (
        ((tmp_path,), "no fine-tuning run with a model in it"),
        ((run, "--sweep"), "--sweep"),
        ((run, "--beam", "0"), "--beam 0"),
        ((run, "--lm", "nothing.arpa"), "--lm nothing.arpa"),
    ):
        done = decoded(*words)
        assert done.code == 1 and message in done.err and len(done.err.splitlines()) == 1
    (run / "tokenizer.model").rename(tmp_path / "away")
    done = decoded(run, "--lm", lm)
    (tmp_path / "away").rename(run / "tokenizer.model")
    assert done.code == 1 and "tokenizer.model: missing" in done.err
    config = run / "config.yaml"
    kept = config.read_text()
    config.write_text(re.sub(r"valid: .*", "valid: https://x.org/a.jsonl?***", kept, count=1))
    done = decoded(run)
    config.write_text(kept)
    assert done.code == 1 and "data.valid=" in done.err and "'data.valid=URL'" in done.err


@pytest.mark.parametrize("seed", range(6))
def test_the_beam_finds_the_sentence_that_brute_force_finds(seed: int, tmp_path: Path) -> None:
    texts = ["a", "ab a", "b ab", "a a", "ab ab b"]
    file, tokenizer = write_bigrams(tmp_path / "x.arpa", texts), Tokenizer(build_vocabulary(texts))
    assert sorted(words_of(file)) == ["a", "ab", "b"]
    arpa, (lexicon, _) = read(file), tokenize_words(words_of(file), tokenizer, "basic", "x")
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    log_probs, weight, bonus = (2 * noise).log_softmax(-1), 1.5, 0.4
    best: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=5):
        text = "".join(tokenizer.vocabulary[token] for token, _ in itertools.groupby(path) if token)
        words = text.replace("|", " ").split()
        if all(word in lexicon for word in words):
            score = sum(log10(arpa, (a,), b) for a, b in itertools.pairwise(["<s>", *words, "</s>"]))
            value = float(sum(log_probs[t, e] for t, e in enumerate(path))) + weight * score + bonus * len(words)
            best[" ".join(words)] = max(value, best.get(" ".join(words), -math.inf))
    ranked = sorted(best, key=best.__getitem__, reverse=True)
    assert best[ranked[0]] - best[ranked[1]] > 1e-3, "a tie would test nothing"
    (found,) = NgramBeam(file, lexicon, tokenizer.vocabulary).decode([log_probs], weight, bonus, 1000)
    assert " ".join("".join(tokenizer.vocabulary[e] for e in found).replace("|", " ").split()) == ranked[0]


def test_words_in_another_case_are_normalised_and_in_another_alphabet_refused() -> None:
    tokenizer = Tokenizer(build_vocabulary(["the cat"]))
    lexicon, notes = tokenize_words(["CAT", "Привет", "the"], tokenizer, "basic", "lm.arpa")
    assert lexicon == {"CAT": tokenizer.encode("cat"), "the": tokenizer.encode("the")}
    assert (
        len(notes) == 1 and notes[0].startswith("WARNING lm.arpa") and "1 of 3" in notes[0] and "'Привет'" in notes[0]
    )
    with pytest.raises(UserError, match=r"lm\.arpa: .*'CAT'.*text\.normalise=none"):
        tokenize_words(["CAT"], tokenizer, "none", "lm.arpa")


def test_files_that_are_no_n_gram(tmp_path: Path) -> None:
    (tmp_path / "bad.arpa").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0\xff")
    (tmp_path / "empty.arpa").write_text("\\data\\\n")
    for name in ("bad", "empty", "missing"):
        with pytest.raises(UserError, match=rf"{name}\.arpa: "):
            words_of(tmp_path / f"{name}.arpa")
    (tmp_path / "words.arpa").write_text("\\data\\\n\\1-grams:\n-1\ta\nno number\tb\tc\n")
    with pytest.raises(UserError, match=r"words\.arpa: .*KenLM"):
        NgramBeam(tmp_path / "words.arpa", {"a": [2]}, ["[PAD]", "|", "a"])
