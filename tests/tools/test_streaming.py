"""python -m tools.streaming on tones: a recogniser that makes no errors, words whose ends are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from mixvec.errors import run_cli
from tests.commands import Run, in_process
from tests.tones import GAP_S, RATE_HZ, TONE_MODEL, TONE_S, sound
from tools import streaming
from tools.streaming import Answer, Clip, latencies

TEXTS = ("ab ba a", "ba ab b")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(streaming.main), monkeypatch, capsys)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test data are tones, each followed by two seconds of silence."""
    folder = tmp_path_factory.mktemp("streaming")
    shutil.copytree(TONE_MODEL, folder / "run-0/hub")
    (folder / "test").mkdir()
    lines = []
    for number, text in enumerate(TEXTS):
        soundfile.write(folder / f"test/{number}.wav", sound(f".{text}.....", number).numpy(), RATE_HZ)
        lines.append(json.dumps({"file_name": f"{number}.wav", "text": text}))
    (folder / "test/metadata.jsonl").write_text("\n".join(lines))
    data = f"{{train: {folder}/test, test: {folder}/test}}"
    (folder / "run-0/config.yaml").write_text(f"task: asr\ndata: {data}\n")
    return folder / "run-0"


def test_errors_and_latency(run: Path, measured: Run, tmp_path: Path) -> None:
    pattern = str(run).replace("-0", "-{seed}")
    done = measured(pattern, run, "--chunk-ms", "320,640", "--left-chunks", "8,all", "--json", tmp_path / "rows.json")
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row.get("chunk_ms"), row.get("left_chunks", 0)) for row in rows[:5]] == [
        (None, 0), (320, 8), (640, 8), (320, None), (640, None)]  # fmt: skip
    assert len(rows) == 10 and len(done.out.splitlines()) == 12
    assert [row["cer"]["value"] for row in rows] == [0.0] * 10
    assert all(row["difference"]["value"] == 0 for row in rows[5:]) and all(row["real_time_factor"] > 0 for row in rows)
    for row in rows[1:5]:
        chunk_s, (median_s, late_s) = row["chunk_ms"] / 1000, row["latency_s"]
        assert row["words"] == 6 and 0 < median_s <= late_s < chunk_s + GAP_S + TONE_S + 0.3
    assert rows[2]["latency_s"][0] > rows[1]["latency_s"][0]


def test_rows_without_text_are_left_out_and_damaged_audio_counts(run: Path, measured: Run, tmp_path: Path) -> None:
    """As in fine-tuning: the damaged file's header and end are whole, so that it is missed when it is read."""
    for name, text in (("good", "ab"), ("cut", "ba"), ("untold", "b"), ("brief", "a")):
        samples = sound(text + "..").numpy()
        soundfile.write(tmp_path / f"{name}.flac", samples[:150] if name == "brief" else samples, RATE_HZ)
    content = bytearray((tmp_path / "cut.flac").read_bytes())
    first, end = 3 * len(content) // 10, len(content) // 2
    content[first:end] = bytes(end - first)
    (tmp_path / "cut.flac").write_bytes(content)
    texts = {"good": "ab", "cut": "ba", "untold": "", "brief": "a"}
    rows = [json.dumps({"file_name": f"{name}.flac", "text": text}) for name, text in texts.items()]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    shutil.copytree(run / "hub", tmp_path / "run/hub")
    data = f"{{train: {tmp_path}, test: {tmp_path}, min_s: 0.001}}"
    (tmp_path / "run/config.yaml").write_text(f"task: asr\ndata: {data}\n")
    done = measured(tmp_path / "run", "--chunk-ms", 320, "--left-chunks", "all", "--json", tmp_path / "rows.json")
    assert done.code == 0 and "1 utterances cannot be decoded" in done.out, done.err
    offline, streamed = json.loads((tmp_path / "rows.json").read_text())
    assert offline["cer"]["value"] == streamed["cer"]["value"] == 60.0, "ba and a of ab, ba, a"


def test_the_latency_of_words_that_are_right() -> None:
    clip = Clip(sound("a" * 14), "aa b ab", [1.0, 2.0, 4.0])  # 5 s long
    assert latencies(clip, Answer([("aa", 1.5), ("a", 2.5), ("ab", 4.5)], 0.0)) == [0.5]  # b is wrong, ab at the end
    assert latencies(clip._replace(ends_s=[]), Answer([("aa", 1.5)], 0.0)) == []


@pytest.mark.parametrize(
    ("words", "named"), [((), "nothing"), (("--chunk-ms", "x"), "--chunk-ms"), (("--left-chunks", "-1"), "-1")]
)
def test_what_is_refused(words: tuple[str, ...], named: str, run: Path, measured: Run) -> None:
    done = measured(run if words else run.parent / "nothing", *words)
    assert done.code == 1 and done.out == "" and named in done.err
