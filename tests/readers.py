"""What the tests of the readers share: small audio files, five of them in every form, and what was found compared."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile

from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance

RATE = 16_000


def write(path: Path, seconds: float = 0.5, rate_hz: int = RATE) -> Path:
    """Noise that no other file has, in the format of the extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    kind = {".sph": "NIST", ".opus": "OGG"}.get(path.suffix)
    subtype = "OPUS" if path.suffix == ".opus" else None
    soundfile.write(path, rng.uniform(-0.5, 0.5, round(seconds * rate_hz)), rate_hz, format=kind, subtype=subtype)
    return path


def spoken(
    path: Path, seconds: float, spans: list[tuple[float, float]], rate_hz: int = RATE, gain: float = 1.0
) -> Path:
    """Noise where ``spans`` say from when to when, in seconds, and some 50 dB less of it elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(list(path.name.encode())).uniform(-0.4, 0.4, round(seconds * rate_hz))
    time_s = np.arange(len(samples)) / rate_hz
    heard = np.any([(begin <= time_s) & (time_s < end) for begin, end in spans], axis=0)
    soundfile.write(path, gain * np.where(heard, samples, samples / 316), rate_hz, subtype="PCM_24")
    return path


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def find(source: Any, *, labels: bool = True) -> Corpus:
    return find_utterances(source if isinstance(source, list) else str(source), "data.train", labels=labels)


def assert_reads(utterance: Utterance, path: Path, start_s: float = 0.0, stop_s: float | None = None) -> None:
    """``utterance`` sounds as this part of a 16 kHz file, sample for sample, and so does a part of it."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE
    meant = samples[round(start_s * RATE) : None if stop_s is None else round(stop_s * RATE)]
    np.testing.assert_array_equal(utterance.read(), meant)
    assert utterance.duration_s == len(meant) / RATE
    np.testing.assert_array_equal(utterance.read(0.1, 0.05), meant[1_600:2_400])


TEXTS = ["yes", "no it isn't", "Grüße an 鳥", "a b c", "the end"]


def audiofolder(audio: list[Path], at: Path, texts: Sequence[str] = TEXTS) -> Path:
    write_text(at / "metadata.csv", "file_name,text", *(f"{os.path.relpath(a, at)},{t}" for a, t in zip_(audio, texts)))
    return at


def fairseq_words(audio: list[Path], at: Path) -> Path:
    rows = [f"{path.relative_to(at.parent)}\t{soundfile.info(path).frames}" for path in audio]
    write_text(at / "train.wrd", *TEXTS)
    return write_text(at / "train.tsv", str(at.parent), *rows)


def fairseq_letters(audio: list[Path], at: Path) -> Path:
    path = fairseq_words(audio, at)
    (at / "train.wrd").unlink()
    write_text(at / "train.ltr", *(" ".join(text.replace(" ", "|")) + " |" for text in TEXTS))
    return path


def nemo(audio: list[Path], at: Path, texts: Sequence[str] = TEXTS) -> Path:
    rows = [
        {"audio_filepath": str(a), "duration": soundfile.info(a).duration, "text": t} for a, t in zip_(audio, texts)
    ]
    return write_text(at / "manifest.json", *map(json.dumps, rows))


def kaldi(audio: list[Path], at: Path, texts: Sequence[str] = TEXTS) -> Path:
    write_text(at / "wav.scp", *(f"{path.stem}\t{path}" for path in audio))
    write_text(at / "text", *(f"{path.stem} {text}" for path, text in zip_(audio, texts)))
    return at


def speechbrain_csv(audio: list[Path], at: Path) -> Path:
    rows = [f"{a.stem}, {soundfile.info(a).duration}, $data_root/../{a.name}, spk, {t}" for a, t in zip_(audio)]
    return write_text(at / "train.csv", "ID, duration, wav, spk_id, wrd", *rows)


def speechbrain_json(audio: list[Path], at: Path, indent: int | None = 2) -> Path:
    rows = {a.stem: {"wav": "{data_root}/../" + a.name, "length": 1, "words": t} for a, t in zip_(audio)}
    return write_text(at / "train.json", json.dumps(rows, indent=indent))


def speechbrain_json_on_one_line(audio: list[Path], at: Path) -> Path:
    return speechbrain_json(audio, at, indent=None)


def cut(path: Path, text: str, start: float = 0.0, duration: float | None = None, **others: Any) -> dict[str, Any]:
    info = soundfile.info(path)
    recording = {"id": path.stem, "sources": [{"type": "file", "channels": [0], "source": str(path)}],
                 "sampling_rate": info.samplerate, "num_samples": info.frames, "duration": info.duration}  # fmt: skip
    said = [{"id": "s", "start": 0.0, "text": text, "custom": {"intent": "greet"}}]
    return {"id": path.stem, "start": start, "duration": duration or info.duration, "channel": 0,
            "supervisions": said, "recording": recording, "type": "MonoCut"} | others  # fmt: skip


def lhotse(audio: list[Path], at: Path) -> Path:
    at.mkdir()
    with gzip.open(at / "cuts.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(cut(path, text)) + "\n" for path, text in zip_(audio))
    return at / "cuts.jsonl.gz"


def dataset(audio: list[Path], **columns: Sequence[Any]) -> datasets.Dataset:
    """The files as a table that holds their bytes, with these other columns."""
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in audio]
    return datasets.Dataset.from_dict({"audio": stored, **columns}).cast_column("audio", datasets.Audio())


def parquet(audio: list[Path], at: Path, texts: Sequence[str] = TEXTS) -> Path:
    (at / "data").mkdir(parents=True)
    dataset(audio, text=texts).to_parquet(str(at / "data/train-00000-of-00001.parquet"), batch_size=2)
    return at


def webdataset(audio: list[Path], at: Path, texts: Sequence[str] = TEXTS) -> Path:
    at.mkdir()
    with tarfile.open(at / "shard-000000.tar", "w") as tar:
        for path, text in zip_(audio, texts):
            tar.add(path, arcname=f"./{path.name}")
            side = write_text(at / f"{path.stem}.txt", text)
            tar.add(side, arcname=f"./{side.name}")
            side.unlink()
    return at


def zip_(audio: list[Path], texts: Sequence[str] = TEXTS) -> list[tuple[Path, str]]:
    return list(zip(audio, texts, strict=True))


FORMS: list[Callable[[list[Path], Path], Path]] = [
    audiofolder, fairseq_words, fairseq_letters, nemo, kaldi, speechbrain_csv, speechbrain_json,
    speechbrain_json_on_one_line, lhotse, parquet, webdataset,
]  # fmt: skip
