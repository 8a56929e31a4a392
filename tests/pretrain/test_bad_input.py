"""Every kind of bad input, through a whole run: read all the same, skipped with its reason, or refused."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mixvec import UserError
from tests.data.test_archives import tar
from tests.readers import find, write_text
from tests.runs import finetune, pretrain
from tests.training.test_faults import two_ranks

SECONDS, RATE = 1.5, 16_000
GOOD = [f"good {number}.flac" for number in range(4)]
KEYS = ("run.updates=2", "batch.update_s=90", "batch.max_s=90", "data.min_s=1")


def noise(path: Path, rate_hz: int = RATE, channels: int = 1, scale: float = 0.3) -> Path:
    """Write noise; only whether it is read matters here."""
    samples = scale * np.random.default_rng(0).uniform(-1, 1, (round(SECONDS * rate_hz), channels))
    plain = path.with_name(f"plain{path.suffix}")
    soundfile.write(plain, samples, rate_hz)
    return plain.rename(path)


def cut(path: Path, share: float) -> None:
    content = noise(path).read_bytes()
    path.write_bytes(content[: round(len(content) * share)])


def as_another(kind: str, path: Path) -> None:
    noise(path.with_suffix(kind)).rename(path)


def with_value(path: Path, value: float) -> None:
    samples = np.full(round(SECONDS * RATE), 0.1, np.float32)
    samples[77] = value
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def claiming(hours: int, path: Path) -> None:
    content = bytearray(noise(path).read_bytes())
    stated = int.from_bytes(content[18:26], "big")  # of which the last 36 bits are FLAC's count of frames
    content[18:26] = (stated >> 36 << 36 | hours * 3600 * RATE).to_bytes(8, "big")
    path.write_bytes(content)


READ: dict[str, Callable[[Path], Any]] = {
    "eight channels.wav": lambda path: noise(path, channels=8),
    "4 kHz.wav": lambda path: noise(path, 4_000),
    "192 kHz.flac": lambda path: noise(path, 192_000),
    "an mp3.wav": lambda path: as_another(".mp3", path),
    "a flac.ogg": lambda path: as_another(".flac", path),
    " spaces  in it .wav": noise,
    "a line\nbreak.flac": noise,
    os.fsdecode(b"no UTF-8 \xff\xe9.wav"): noise,
    "truncated, over a second left.wav": lambda path: cut(path, 0.8),
    "40 hours.flac": lambda path: claiming(40, path),
}
"""Unusual files that are read."""
NOT_AUDIO = "not audio that libsndfile can read"
SKIPPED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated.flac": (lambda path: cut(path, 0.5), NOT_AUDIO),
    "truncated, half a second left.wav": (lambda path: cut(path, 0.3), "data.min_s"),
    "truncated.ogg": (lambda path: cut(path, 0.5), "no audio in it"),
    "truncated.mp3": (lambda path: cut(path, 0.5), "data.min_s"),
    "zero length.wav": (lambda path: path.write_bytes(b""), NOT_AUDIO),
    "header only.wav": (lambda path: soundfile.write(path, np.zeros(0), RATE), "no audio in it"),
    "header only.flac": (lambda path: soundfile.write(path, np.zeros(0), RATE), NOT_AUDIO),
    "a text.flac": (lambda path: path.write_text("this is no audio " * 99), NOT_AUDIO),
    "a line\nbreak, \udcff, no audio.wav": (lambda path: path.write_text("?"), NOT_AUDIO),
    "NaN.wav": (lambda path: with_value(path, np.nan), "NaN, infinity"),
    "infinity.wav": (lambda path: with_value(path, -np.inf), "NaN, infinity"),
    "zeros.flac": (lambda path: noise(path, scale=0.0), "silent"),
    "zeros at 8 kHz.wav": (lambda path: noise(path, 8_000, scale=0.0), "silent"),
}
"""Files that are skipped, and a part of the reason."""


def ran(at: Path, source: Path) -> dict[str, str]:
    """The reasons in skipped.jsonl for the first epoch of a run, by the file's name; each file is in it once."""
    assert pretrain(at, at / "run", f"data.train={source}", *KEYS) == 0
    rows = [json.loads(line) for line in (at / "run/skipped.jsonl").read_text().splitlines()]
    first = [row for row in rows if row.get("epoch", 0) == 0]
    assert len({row["source"] for row in first}) == len(first)
    return {Path(row["source"]).name: row["reason"] for row in first}


@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reasons in skipped.jsonl of one run over a folder of all of these, by the file's name."""
    at = tmp_path_factory.mktemp("bad")
    (at / "audio").mkdir()
    for name in GOOD:
        noise(at / "audio" / name)
    for name, make in [*READ.items(), *((name, made) for name, (made, _) in SKIPPED.items())]:
        make(at / "audio" / name)
    (at / "audio" / "a loop").symlink_to(at / "audio")
    return ran(at, at / "audio")


@pytest.mark.parametrize("name", SKIPPED)
def test_skipped_with_its_reason(skipped: dict[str, str], name: str) -> None:
    assert SKIPPED[name][1] in skipped[name] and name in skipped[name]


def test_everything_else_is_read(skipped: dict[str, str]) -> None:
    """Unusual and good files, once, though a link leads in a loop."""
    assert sorted(skipped) == sorted(SKIPPED)


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped, with all that is in it; the others are read. Permissions do not bind root, as whom tests may run."""
    (tmp_path / "audio/locked").mkdir(parents=True)
    for name in ("a.wav", "locked/b.wav"):
        noise(tmp_path / "audio" / name)
    listed = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ((name, reason),) = ran(tmp_path, tmp_path / "audio").items()
    assert name == "locked" and reason.startswith(f"{tmp_path}/audio/locked: ") and "Permission denied" in reason
    with pytest.raises(UserError, match=r"data\.train=.* 1 skipped.*locked: "):
        find(tmp_path / "audio/locked", labels=False)


def test_two_files_of_one_name_in_a_tar(tmp_path: Path) -> None:
    whole, other = noise(tmp_path / "a.wav"), noise(tmp_path / "b.wav", 8_000)
    shard = tar(tmp_path / "s.tar", ("x/1.wav", whole), ("x/1.wav", other), ("x/1.flac", other), ("x/2.wav", other))
    reasons = ran(tmp_path, shard)
    assert set(reasons) == {"1.wav", "1.flac"}
    assert all(f"x/{name} and x/1.wav" in reason for name, reason in reasons.items())


@pytest.mark.parametrize("name", ["/etc/a.wav", "../a.wav", "x/../../a.wav"])
def test_a_tar_with_a_member_outside_of_it_is_refused(tmp_path: Path, name: str) -> None:
    """Refused whole: nobody packs one so by mistake, and elsewhere it is dangerous to unpack."""
    shard = tar(tmp_path / "s.tar", ("a.wav", noise(tmp_path / "a.wav")), (name, b"?"))
    with pytest.raises(UserError, match=r"s\.tar: .*a\.wav"):
        ran(tmp_path, shard)


def test_a_manifest_with_an_absolute_path_or_one_upwards(tmp_path: Path) -> None:
    """Read: NeMo's manifests have absolute paths, and lists are often beside the audio. Nothing is written there."""
    (tmp_path / "lists").mkdir()
    rows = [str(noise(tmp_path / "a.wav")), f"../{noise(tmp_path / 'b.wav').name}"]
    write_text(tmp_path / "lists/m.jsonl", *(json.dumps({"audio_filepath": row}) for row in rows))
    assert ran(tmp_path, tmp_path / "lists/m.jsonl") == {}
    assert [Path(u.source).name for u in find(tmp_path / "lists/m.jsonl").utterances] == ["a.wav", "b.wav"]


def test_a_bound_on_what_is_skipped_stops_the_run(tmp_path: Path) -> None:
    """Before it begins where headers show it, else within the epoch, with a checkpoint to resume from."""
    for number in range(6):
        noise(tmp_path / "audio" / f"{number}.wav") if number else (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a text.wav").write_text("no audio")
    for name in "ab":
        with_value(tmp_path / "audio" / f"{name} NaN.wav", np.nan)
    data = f"data.train={tmp_path}/audio"
    keys = ("run.updates=9", "batch.update_s=3", "data.min_s=1")
    with pytest.raises(UserError, match=r"data\.train=.*: 1 of 8 .*data\.max_skipped=0\.1 "):
        pretrain(tmp_path, tmp_path / "none", data, "data.max_skipped=0.1", *keys)
    with pytest.raises(UserError, match=r"data\.train: 2 .*epoch 0 .*data\.max_skipped=0\.2 .*/run/skipped\*\.jsonl"):
        pretrain(tmp_path, tmp_path / "run", data, "data.max_skipped=0.2", *keys)
    (left,) = (tmp_path / "run/checkpoints").iterdir()
    assert left.name <= "update_00000004", "within the first epoch"
    assert pretrain(tmp_path, tmp_path / "run", data, "data.max_skipped=0.3", *keys) == 0, "two in each epoch"


@pytest.mark.slow
def test_the_bound_holds_for_two_ranks_together(tmp_path: Path) -> None:
    """Each meets one of the two that are too many."""
    (tmp_path / "audio").mkdir()
    for number in range(2):
        noise(tmp_path / "audio" / f"{number}.wav")
        with_value(tmp_path / "audio" / f"{number} NaN.wav", np.nan)
    keys = [f"data.train={tmp_path}/audio", "data.max_skipped=0.3", "batch.update_s=9", "data.min_s=1"]
    done = two_ranks(
        tmp_path, tmp_path / "run", tmp_path / "script.py", "pass", "run.updates=99", *keys, torchrun=False
    )
    assert done.returncode != 0 and "[rank0]: Traceback" not in done.stderr
    assert re.search(r"error: rank 0: data\.train: 2 .*epoch 0 ", done.stderr), done.stderr
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1


def test_a_text_column_that_is_missing_in_some_rows(tmp_path: Path) -> None:
    """Those rows are skipped in fine-tuning, for which the bound holds too."""
    noise(tmp_path / "a.wav")
    noise(tmp_path / "b.wav")
    with_value(tmp_path / "c.wav", np.nan)
    rows = ({"file_name": "a.wav", "text": "yes"}, {"file_name": "b.wav"}, {"file_name": "c.wav", "text": "no"})
    write_text(tmp_path / "metadata.jsonl", *map(json.dumps, rows))
    keys = (f"data.train={tmp_path}", "data.valid=null", "size=tiny", "run.updates=2", f"run.dir={tmp_path}/run")
    assert finetune("asr", tmp_path, tmp_path / "run", *keys) == 0
    first, second = (json.loads(line) for line in (tmp_path / "run/skipped.jsonl").read_text().splitlines()[:2])
    assert first["source"].endswith("b.wav") and "no text" in first["reason"]
    assert second["source"].endswith("c.wav") and "NaN" in second["reason"]
    with pytest.raises(UserError, match=r"data\.train: 1 .*epoch 0 "):
        finetune("asr", tmp_path, tmp_path / "run", *keys, "data.max_skipped=0.4", f"run.dir={tmp_path}/other")
