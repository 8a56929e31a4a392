"""Write a corpus of synthesised speech: unlabelled audio to pretrain on, and two small labelled tasks.

    python -m tools.corpus data/synthetic                                    # two hours in 30 voices, under 30 s
    python -m tools.corpus data/tiny --hours 0.01 --asr-test 10 --intent-test 1

    OUT/unlabelled/VOICE/*.flac                  everyday sentences, commands and requests; no labels
    OUT/asr/{train,validation,test}/             audio/*.flac, metadata.jsonl: file_name, text, speaker, duration
    OUT/intent/{train,validation,test}/          the same with intent
    OUT/corpus.json                              the arguments and the sums, written last

No voice of the validation or of the test is used elsewhere, and none of their texts is in a training set or in the
unlabelled audio. Everything follows from the arguments alone, whatever the number of threads.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from mixvec.atomic import whole_folder
from mixvec.errors import UserError, run_cli
from tools import command_parser
from tools.espeak import SAMPLE_RATE_HZ, synthesise
from tools.sentences import INTENTS, command, everyday, request

TRAIN_VOICES = ("en-us+f1", "en-us+m1", "en-us+f2", "en-us+m4", "en-us+Annie")  # also among the unlabelled ones
VALIDATION_VOICES = ("en-us+f4", "en-us+m5", "en-us+belinda", "en-us+paul")
TEST_VOICES = ("en-us+f3", "en-us+m3", "en-us+steph", "en-us+m7", "en-us+Andrea", "en-us+robert")
UNLABELLED_VOICES = (
    *TRAIN_VOICES,
    *("en-us+m2", "en-us+f5", "en-us+Alex", "en-us+grandma", "en-us+m6", "en-us+anika", "en-us+Denis", "en+Alicia"),
    *("en-us+m8", "en-us+shelby", "en+Andy", "en-us+zac", "en-us+ed", "en-us+Gene", "en+Nguyen", "en-us+max"),
    *("en-gb-x-rp+Diogo", "en-us+pablo", "en-us+grandpa", "en-gb-x-rp+ian", "en-us+victor", "en-us+sandro"),
    *("en-gb-scotland+Mario", "en-us+marcelo", "en-us+boris"),
)
SHORTEST_S, LONGEST_S = 2.0, 8.0  # of an unlabelled utterance


@dataclass(frozen=True)
class CorpusConfig:
    """What a corpus holds. The ``asr_`` numbers are utterances, the ``intent_`` ones utterances of each intent."""

    hours: float = 2.0
    seed: int = 0
    asr_train: int = 20
    asr_validation: int = 30
    asr_test: int = 120
    intent_train: int = 5
    intent_validation: int = 4
    intent_test: int = 15
    everyday_share: float = 0.4  # of the unlabelled sentences; of the others three in five are commands

    def __post_init__(self) -> None:
        bounds = {"hours": (1e-6, 100.0), "everyday_share": (0.0, 1.0), "seed": (0, 10_000)}
        for field in fields(self):
            least, most = bounds.get(field.name, (1, 10_000))
            if not least <= (value := getattr(self, field.name)) <= most:
                raise UserError(f"{field.name} is {value}: choose a number from {least:g} to {most:g}")


class Line(NamedTuple):
    """One labelled utterance to be spoken."""

    text: str
    voice: str
    intent: str | None = None


def write_corpus(out: Path, config: CorpusConfig = CorpusConfig()) -> dict[str, float]:
    """Write the corpus into the folder ``out``, whole or not at all; the sums that corpus.json has too.

    A corpus with the same arguments is left as it is.

    Raises:
        UserError: ``out`` is a file, or holds another corpus or anything else, or cannot be written.
    """
    marker = out / "corpus.json"
    record: dict[str, Any] = json.loads(marker.read_text()) if marker.is_file() else {}
    if record.get("config") == asdict(config):
        return record["sums"]  # type: ignore[no-any-return]
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: holds a corpus of other arguments, or other files: choose a new folder, or remove it")
    try:
        with whole_folder(out) as part:
            sums = _fill(part, config)
            (part / marker.name).write_text(json.dumps({"config": asdict(config), "sums": sums}, indent=2) + "\n")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{out}: audio cannot be written ({error}); is the disk full?") from error
    return sums


def labelled_lines(config: CorpusConfig) -> dict[str, list[Line]]:
    """The lines of each labelled set, by its folder such as ``asr/train``. No text occurs twice within a task."""
    rng = np.random.default_rng([config.seed, 1])
    lines: dict[str, list[Line]] = {}
    taken: set[str] = set()
    used: Counter[str] = Counter()

    def new(draw: Callable[[], str]) -> str:
        text = next(text for text in (draw() for _ in range(100_000)) if text not in taken)
        taken.add(text)
        return text

    def rarest() -> str:  # of some commands, the one with the rarest words, so that a few lines hold every word
        texts = [command(rng) for _ in range(30)]
        return max(texts, key=lambda text: sum(1 / (1 + used[word]) ** 2 for word in set(text.split())))

    for split, voices in (("train", TRAIN_VOICES), ("validation", VALIDATION_VOICES), ("test", TEST_VOICES)):
        lines[f"asr/{split}"] = []
        for index in range(getattr(config, f"asr_{split}")):
            text = new(rarest if split == "train" else lambda: command(rng))
            used.update(text.split() if split == "train" else ())
            lines[f"asr/{split}"].append(Line(text, voices[index % len(voices)]))
        lines[f"intent/{split}"] = []
        for number, intent in enumerate(INTENTS):
            for index in range(getattr(config, f"intent_{split}")):
                text = new(functools.partial(request, intent, rng, template=index + number))
                lines[f"intent/{split}"].append(Line(text, voices[(index + number) % len(voices)], intent))
    return lines


def _fill(folder: Path, config: CorpusConfig) -> dict[str, float]:
    """Speak everything into ``folder``, on a thread per core: all but the synthesis runs side by side."""
    lines = labelled_lines(config)
    held_out = {line.text for name, part in lines.items() if not name.endswith("train") for line in part}
    voices = UNLABELLED_VOICES[: max(1, round(config.hours * 3600 / 10))]
    pool = ThreadPoolExecutor(os.cpu_count() or 1, initializer=torch.set_num_threads, initargs=(1,))
    try:
        unlabelled = [pool.submit(_unlabelled, folder, voice, len(voices), held_out, config) for voice in voices]
        labelled = [pool.submit(_labelled, folder / name, name, part, config.seed) for name, part in lines.items()]
        unlabelled_s, labelled_s = ([s for future in own for s in future.result()] for own in (unlabelled, labelled))
    finally:
        pool.shutdown(cancel_futures=True)
    return {"unlabelled_hours": round(sum(unlabelled_s) / 3600, 4), "unlabelled_voices": len(voices),
            "unlabelled_utterances": len(unlabelled_s), "labelled_utterances": len(labelled_s),
            "hours": round((sum(unlabelled_s) + sum(labelled_s)) / 3600, 4)}  # fmt: skip


def _unlabelled(folder: Path, voice: str, voices: int, held_out: set[str], config: CorpusConfig) -> list[float]:
    """Speak one voice's share of the unlabelled hours; the durations in seconds."""
    rng, durations_s, target = _rng(config.seed, voice), list[float](), folder / "unlabelled" / voice
    target.mkdir(parents=True)
    while not durations_s or sum(durations_s) + SHORTEST_S < config.hours * 3600 / voices:
        waveform = _spoken(_talk(rng, held_out, config.everyday_share), voice, rng)
        if SHORTEST_S <= len(waveform) / SAMPLE_RATE_HZ <= LONGEST_S:
            soundfile.write(target / f"{len(durations_s):04d}.flac", waveform, SAMPLE_RATE_HZ)
            durations_s.append(len(waveform) / SAMPLE_RATE_HZ)
    return durations_s


def _labelled(folder: Path, name: str, lines: list[Line], seed: int) -> list[float]:
    """Speak one labelled set with its metadata; the durations in seconds."""
    (folder / "audio").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for index, line in enumerate(lines):
        waveform = _spoken(line.text, line.voice, _rng(seed, f"{name}/{index}"))
        row = {"file_name": f"audio/{index:04d}.flac", "text": line.text, "speaker": line.voice}
        soundfile.write(folder / row["file_name"], waveform, SAMPLE_RATE_HZ)
        intent = {"intent": line.intent} if line.intent else {}
        rows.append(row | intent | {"duration": round(len(waveform) / SAMPLE_RATE_HZ, 4)})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["duration"] for row in rows]


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, 2, zlib.crc32(name.encode())])


def _talk(rng: np.random.Generator, held_out: set[str], everyday_share: float) -> str:
    """Some sentences that last 2 to 8 s in most voices, none of them in ``held_out``."""
    sentences: list[str] = []
    wanted_words = rng.integers(6, 18)
    while len(" ".join(sentences).split()) < wanted_words:
        if rng.random() < everyday_share:
            sentence = everyday(rng)
        else:
            sentence = command(rng) if rng.random() < 0.6 else request(str(rng.choice(INTENTS)), rng)
        if sentence not in held_out:
            sentences.append(sentence)
    return ", ".join(sentences)


def _spoken(text: str, voice: str, rng: np.random.Generator) -> np.ndarray:
    """Speak ``text``: samples (S,), with rate, pitch, room, microphone, noise and level drawn by ``rng``."""

    def rms(samples: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))

    rate_wpm, pitch, pitch_range = (int(rng.integers(*bounds)) for bounds in ((145, 206), (35, 66), (30, 71)))
    speech = synthesise(text, voice, rate_wpm=rate_wpm, pitch=pitch, pitch_range=pitch_range)
    before, after = (int(samples) for samples in rng.uniform(0.05, 0.25, 2) * SAMPLE_RATE_HZ)
    waveform = np.pad(speech, (before, after))
    delay = int(rng.uniform(0.01, 0.05) * SAMPLE_RATE_HZ)
    waveform[delay:] += np.float32(rng.uniform(0, 0.3)) * waveform[:-delay].copy()  # a wall
    waveform[1:] += np.float32(rng.uniform(-0.5, 0.5)) * waveform[:-1].copy()  # the microphone's tilt, dull or shrill
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    noise[1:] += np.float32(rng.uniform(0, 0.95)) * noise[:-1].copy()
    snr_db = rng.uniform(15, 40)
    waveform += noise * np.float32(rms(waveform) / rms(noise) / 10 ** (snr_db / 20))
    gain = 10 ** (rng.uniform(-32, -18) / 20) / rms(waveform)
    return waveform * np.float32(min(gain, 0.95 / float(np.abs(waveform).max())))


def main() -> None:
    parser = command_parser("corpus", __doc__)
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    for field in fields(CorpusConfig):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help=f"default: {field.default}")
    args = vars(parser.parse_args())
    out: Path = args.pop("out")
    sums = write_corpus(out, CorpusConfig(**args))
    print(f"{out}: " + ", ".join(f"{name} {value:g}" for name, value in sums.items()))


if __name__ == "__main__":
    run_cli(main)
