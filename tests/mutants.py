"""Files with faults: small audio of every format, and every container and manifest, cut, flipped and overwritten.

A mutant follows from its seed, its number and the originals. Half of the damaged tars and gzips have their checksums
put right: those reach the code behind them, as the files of a program that writes nonsense would.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import soundfile

from tests.av_files import write_av
from tests.readers import FORMS, TEXTS, dataset, write, write_text, zip_

AUDIO = [
    ("pcm16.wav", "WAV", "PCM_16", 16_000, 1), ("pcm24.wav", "WAV", "PCM_24", 44_100, 2),
    ("float.wav", "WAV", "FLOAT", 11_127, 1), ("double.wav", "WAV", "DOUBLE", 8_000, 2),
    ("pcm8.wav", "WAV", "PCM_U8", 4_000, 1), ("extensible.wav", "WAVEX", "PCM_16", 48_000, 8),
    ("adpcm.wav", "WAV", "IMA_ADPCM", 16_000, 2), ("gsm.wav", "WAV", "GSM610", 8_000, 1),
    ("mulaw.wav", "WAV", "ULAW", 8_000, 1), ("rf64.wav", "RF64", "PCM_16", 16_000, 1),
    ("mono.flac", "FLAC", "PCM_16", 16_000, 1), ("stereo.flac", "FLAC", "PCM_24", 192_000, 2),
    ("vorbis.ogg", "OGG", "VORBIS", 16_000, 1), ("stereo.ogg", "OGG", "VORBIS", 44_100, 2),
    ("a.opus", "OGG", "OPUS", 48_000, 1), ("mono.mp3", "MP3", "MPEG_LAYER_III", 16_000, 1),
    ("stereo.mp3", "MP3", "MPEG_LAYER_III", 44_100, 2), ("a.aiff", "AIFF", "PCM_16", 22_050, 2),
    ("a.au", "AU", "PCM_16", 16_000, 1), ("a.w64", "W64", "PCM_16", 16_000, 1), ("a.caf", "CAF", "PCM_16", 16_000, 1),
    ("alac.caf", "CAF", "ALAC_16", 16_000, 2), ("a.sph", "NIST", "PCM_16", 16_000, 1),
]  # fmt: skip
"""File name, libsndfile's format and subtype, rate in Hz, channels."""
FLOATS = [struct.pack(form, value) for form in "fd" for value in (float("nan"), float("inf"), 3e38, 1e-40)]
SECONDS = 0.3
HEAD_BYTES = 160
JUNK = (b"", b"null", b"[]", b"{}", b"-1", b"0", b"\0", b"\n", b"1e999", b"9" * 30, b"\xff", b'"', b"\t", b" ", b"NaN",
        b"..", b"/", b"\\u0000", b"\xe2\x80\xa8", b"\xff\xfe", b"true", b"|")  # fmt: skip


Form = Callable[[list[Path], Path], Path]


class Original(NamedTuple):
    """A source that is whole, and those of its files that are damaged."""

    name: str
    source: Path
    files: list[Path]
    labels: bool


AV = (("a.m4a", "aac", "ipod"), ("a.webm", "libopus", "webm"), ("a.mka", "flac", "matroska"))


def own_forms() -> tuple[Form, ...]:
    """The forms that are written here."""
    return arrow, ljspeech, json_array, side_texts, named_parquet


def originals(folder: Path, forms: Sequence[Form] | None = None) -> list[Original]:
    """One of each kind, written below ``folder``; ``forms`` None: all that several files may be kept in."""
    made = []
    for name, kind, subtype, rate_hz, channels in AUDIO:
        path = folder / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(SECONDS * rate_hz), channels))
        soundfile.write(path, noise, rate_hz, format=kind, subtype=subtype)
        made.append(Original(name, path, [path], labels=False))
    for name, codec, container in AV:
        noise, rate_hz = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000), 48_000 if codec == "libopus" else 16_000
        path = write_av(folder / "audio" / name, noise, rate_hz, codec, container)
        made.append(Original(name, path, [path], labels=False))
    for form in (*FORMS, *own_forms()) if forms is None else forms:
        at = folder / form.__name__ / "own"
        audio = [write(at.parent / f"{name}.flac", 0.1) for name in "abcde"]
        source = form(audio, at)
        files = sorted(path for path in at.rglob("*") if path.is_file())
        made.append(Original(form.__name__, source, files, labels=True))
    return made


def arrow(audio: list[Path], at: Path) -> Path:
    dataset(audio, text=TEXTS).save_to_disk(at)
    return at


def ljspeech(audio: list[Path], at: Path) -> Path:
    write_text(at / "metadata.csv", *(f"{os.path.relpath(path, at)}|{text}|{text}" for path, text in zip_(audio)))
    return at


def json_array(audio: list[Path], at: Path) -> Path:
    rows = [{"file_name": str(path), "text": text, "label": 1.0} for path, text in zip_(audio)]
    return write_text(at / "rows.json", json.dumps(rows, indent=1))


def side_texts(audio: list[Path], at: Path) -> Path:
    for path, text in zip_(audio):
        shutil.copy(path, write_text(at / path.stem / f"{path.stem}.txt", text).parent)
    return at


def named_parquet(audio: list[Path], at: Path) -> Path:
    made = datasets.Dataset.from_dict({"file_name": [str(path) for path in audio], "text": TEXTS})
    made.to_parquet(str(write_text(at / "metadata.parquet")))
    return at


def mutant(among: list[Original], seed: int, number: int) -> tuple[Original, Path, bytes]:
    """The source, which of its files is damaged, and what it holds instead."""
    rng = random.Random(f"{seed}/{number}")
    original = among[number % len(among)]
    path = rng.choice(original.files)
    content, mend = path.read_bytes(), rng.random() < 0.5
    if mend and path.suffix == ".gz":
        return original, path, gzip.compress(_damaged(gzip.decompress(content), rng))
    damaged = _damaged(content, rng)
    return original, path, tar_mended(damaged) if mend and path.suffix == ".tar" else damaged


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or something else put over a part or in between: once, or a few times."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not content:
            break
        head = rng.randrange(min(HEAD_BYTES, len(content)))  # most headers are in the first bytes, some in the last
        at = rng.choice([head, head, rng.randrange(len(content)), len(content) - 1 - head])
        length = rng.choice([1, 2, 4, 8, rng.randrange(1, 100), rng.randrange(1, 5_000)])
        flipped, number = content[at] ^ 1 << rng.randrange(8), rng.choice([1, 2, 3, (1 << 8 * length - 1) - 1])
        new = rng.choice([
            bytes([flipped]), bytes(length), b"\xff" * length, rng.randbytes(length), rng.choice(JUNK), b"",
            number.to_bytes(length, "big"), number.to_bytes(length, "little"), rng.choice(FLOATS),
            content[at : at + length] * rng.choice([2, 3, 50]),
        ])  # fmt: skip
        over = rng.choice([len(new), len(new), 0, length])
        content = content[:at] if rng.random() < 0.1 else content[:at] + new + content[at + over :]
    return content


def tar_mended(content: bytes) -> bytes:
    """Every header with the sum of its bytes, where it stands at a block and has the ``ustar`` mark."""
    changed = bytearray(content)
    for at in range(0, len(content) - 511, 512):
        if changed[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)
