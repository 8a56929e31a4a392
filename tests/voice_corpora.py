"""Very small corpora laid out like the official archives: noise for audio, names and files as they unpack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RNG = np.random.default_rng(7)


def audio(path: Path, seconds: float = 0.6, pitch_hz: float = 0.0) -> Path:
    """Noise over a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(16_000 * seconds)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * pitch_hz * time_s) if pitch_hz else 0.0
    soundfile.write(path, (tone + 0.05 * RNG.standard_normal(len(time_s))).astype(np.float32), 16_000)
    return path


def voxceleb(root: Path, speakers: int = 3, videos: int = 2, files: int = 2, first: int = 1) -> Path:
    """``root/wav/id10001/VIDEO/00001.wav``"""
    for speaker in range(first, first + speakers):
        for video in range(videos):
            for number in range(1, files + 1):
                name = f"id{10_000 + speaker}/vid{video}/{number:05d}.wav"
                audio(root / "wav" / name, 0.5 + 0.1 * number, pitch_hz=150.0 * (speaker - first + 1))
    return root


def trial_list(path: Path, first: int = 1, extra: str = "") -> Path:
    """Four trials over two speakers of ``voxceleb``."""
    a, b = f"id{10_000 + first}", f"id{10_000 + first + 1}"
    lines = [f"1 {a}/vid0/00001.wav {a}/vid1/00002.wav", f"0 {a}/vid0/00001.wav {b}/vid1/00002.wav",
             f"1 {b}/vid0/00001.wav {b}/vid1/00001.wav", f"0 {b}/vid0/00002.wav {a}/vid1/00001.wav"]  # fmt: skip
    path.write_text("\n".join(lines) + "\n" + extra)
    return path


def iemocap(root: Path, sentences: int = 2) -> Path:
    """Five sessions, each with a dialogue in which both speakers utter sentences of six emotions."""
    emotions = {"neu": 200.0, "ang": 400.0, "hap": 600.0, "exc": 600.0, "sad": 800.0, "xxx": 0.0}
    for session in range(1, 6):
        dialog, lines = f"Ses0{session}F_impro01", ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for turn, (emotion, pitch_hz) in enumerate([*emotions.items()] * sentences):
            name = f"{dialog}_{'FM'[turn % 2]}{turn:03d}"
            audio(root / f"Session{session}/sentences/wav/{dialog}/{name}.wav", 0.4, pitch_hz)
            lines += [f"[{turn}.2901 - {turn}.8357]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]",
                      "C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]  # fmt: skip
        evaluated = root / f"Session{session}/dialog/EmoEvaluation/{dialog}.txt"
        evaluated.parent.mkdir(parents=True)
        evaluated.write_text("\n".join(lines))
        (evaluated.parent / "Categorical").mkdir()
    return root


def librispeech(root: Path, split: str, chapters: tuple[str, ...] = ("1/10",), texts: int = 2) -> Path:
    """``root/split/SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac`` and its transcript."""
    for chapter in chapters:
        speaker, number = chapter.split("/")
        at, lines = root / split / speaker / number, []
        for line in range(texts):
            name = f"{speaker}-{number}-{line:04d}"
            audio(at / f"{name}.flac", 0.8)
            lines.append(f"{name} {'ONE TWO' if line % 2 else 'TWO ONE'}")
        (at / f"{speaker}-{number}.trans.txt").write_text("\n".join(lines) + "\n")
    return root / split


def libri_light(root: Path) -> Path:
    """The labelled hours: ``1h/0`` to ``1h/5`` of ten minutes each, and ``9h``."""
    for part in range(6):
        for kind in ("clean", "other"):
            librispeech(root, f"1h/{part}/{kind}", (f"{part + 1}/{part + 10}",))
    for kind in ("clean", "other"):
        librispeech(root, f"9h/{kind}", ("7/70",))
    return root


def common_voice(root: Path) -> Path:
    """``train.tsv``, ``dev.tsv``, ``test.tsv`` with ``clips``."""
    for split in ("train", "dev", "test"):
        lines = ["client_id\tpath\tsentence\tup_votes"]
        for number in range(3):
            clip = f"common_voice_cy_{split}{number}.wav"
            audio(root / "clips" / clip)
            lines.append(f"speaker{number}\t{clip}\tBore da{'!' if number else ''}\t2")
        (root / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return root


def aishell(root: Path) -> Path:
    """``wav/train/S0002/BAC009S0002W0001.wav`` and the transcript of all splits."""
    lines = []
    for split, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        for number in range(3):
            name = f"BAC009{speaker}W{number:04d}"
            audio(root / "wav" / split / speaker / f"{name}.wav", 0.8)
            lines.append(f"{name} {'楼市' if number else '出 现'}")
    (root / "transcript").mkdir()
    (root / "transcript/aishell_transcript_v0.8.txt").write_text("\n".join(lines) + "\n")
    return root


def tedlium(root: Path) -> Path:
    """``train/sph/TALK.sph`` and ``train/stm/TALK.stm``, and so for ``dev`` and ``test``."""
    for split in ("train", "dev", "test"):
        audio(root / split / "sph/Talk_2010.wav", 3.0).rename(root / split / "sph/Talk_2010.sph")
        (root / split / "stm").mkdir()
        lines = [f"Talk_2010 1 Talk_2010 {t} {t + 1} <o,f0,female> {'one two' if t else 'two one'}" for t in range(3)]
        (root / split / "stm/Talk_2010.stm").write_text("\n".join(lines) + "\n")
    return root
