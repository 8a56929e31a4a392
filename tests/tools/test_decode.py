"""python -m tools.decode on tiny runs: beam, n-grams, sweeps, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mixvec import CtcRecognizer
from mixvec.audio import read_audio
from mixvec.errors import run_cli
from mixvec.text import normalise_text
from tests.arpa import write_bigrams
from tests.commands import Run, in_process
from tests.runs import SMALLEST, finetune
from tools import decode
from tools.lexicon import words_of

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
