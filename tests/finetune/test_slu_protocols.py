"""The shipped SLU protocols, each run for two updates on a corpus laid out as the real one unpacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config import FinetuneConfig
from finetune.train import train
from mixvec.training.config import load_config
from tests.readers import write, write_text
from tests.runs import FINETUNE, ROOT, SMALLEST, fresh, written

SHIPPED = ROOT / "configs/slu"
SPLITS = ("train", "valid", "test")


def slurp(root: Path) -> list[str]:
    """Manifests in ``dataset/slurp``, the audio of all of them in ``audio/slurp_real``; one sentence without slots."""
    for split in ("train", "devel", "test"):
        rows = []
        for number, (word, scenario, action) in enumerate([("ten", "alarm", "set"), ("mona", "email", "query")]):
            files = [f"audio-{split}{number}{end}.flac" for end in ("", "-headset")]
            for name in files:
                write(root / "audio/slurp_real" / name, 1.0)
            surfaces = ["wake", word, "'s", "up"]
            rows.append({
                "slurp_id": number, "sentence": f"wake {word}'s up", "scenario": scenario, "action": action,
                "intent": f"{scenario}_{action}", "recordings": [{"file": name, "status": "correct"} for name in files],
                "tokens": [{"surface": surface, "id": i} for i, surface in enumerate(surfaces)],
                "entities": [{"span": [1, 2], "type": "time"}][number:],
            })  # fmt: skip
        write_text(root / f"dataset/slurp/{split}.jsonl", *map(json.dumps, rows))
    names = [f"data.{ours}={root}/dataset/slurp/{theirs}.jsonl"
             for ours, theirs in zip(SPLITS, ("train", "devel", "test"), strict=True)]  # fmt: skip
    return names


def fluent(root: Path) -> list[str]:
    for split in SPLITS:
        rows = []
        for number, label in enumerate(["increase,volume,none", "activate,lights,kitchen"]):
            write(root / f"wavs/speakers/2BqVo8kV/{split}{number}.wav")
            rows.append(f'{number},wavs/speakers/2BqVo8kV/{split}{number}.wav,2BqVo8kV,"Louder, now",{label}')
        write_text(root / f"data/{split}_data.csv", ",path,speakerId,transcription,action,object,location", *rows)
    return [f"data.{split}={root}/data/{split}_data.csv" for split in SPLITS]


def snips(root: Path) -> list[str]:
    lines = []
    for split in SPLITS:
        for voice in ("Amy", "Joey"):
            write(root / f"{split}/{voice}-snips-{split}-1.mp3", 1.0)
            lines.append(f"{voice}-snips-{split}-1 BOS play new york EOS\tO O B-city I-city PlayMusic")
    write_text(root / "all.iob.snips.txt", *lines)
    return [f"data.{split}={root}/{split}" for split in SPLITS]


COMMANDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]


def speech_commands(root: Path) -> list[str]:
    for word in (*COMMANDS, "bed"):
        for split in SPLITS:
            write(root / f"{word}/{split}_nohash_0.wav")
    for name, split in (("validation", "valid"), ("testing", "test")):
        write_text(root / f"{name}_list.txt", *(f"{word}/{split}_nohash_0.wav" for word in (*COMMANDS, "bed")))
    write(root / "_background_noise_/running_tap.wav", 2.2)
    return [f"data.train={root}", f"data.valid={root}/validation_list.txt", f"data.test={root}/testing_list.txt"]


def twelve_classes(root: Path) -> list[str]:
    given = speech_commands(root / "v2")
    for word in (*COMMANDS, "_silence_", "_unknown_"):
        write(root / f"test/{word}/1.wav")
    return [f"data.train=[{root}/v2,{root}/v2/_background_noise_]", given[1], f"data.test={root}/test"]


def common_voice(root: Path) -> list[str]:
    for language in ("cy", "eu"):
        for split in SPLITS:
            write(root / f"{language}/clips/{language}_{split}.mp3")
            line = f"x\t{language}_{split}.mp3\tsome words\t{language}"
            write_text(root / f"{language}/{split}.tsv", "client_id\tpath\tsentence\tlocale", line)
    return [f"data.{split}=[{root}/cy/{split}.tsv,{root}/eu/{split}.tsv]" for split in SPLITS]


SLURP = {"intent": "alarm|set", "text": "wake ten 's up", "slots": [{"type": "time", "value": "ten 's"}]}
SNIPS = {"intent": "PlayMusic", "text": "play new york", "slots": [{"type": "city", "value": "new york"}]}
UNDERSTOOD = "slu_f1 slot_f1 slot_type_f1 value_cer intent_accuracy exact_match wer cer"
PROTOCOLS: dict[str, tuple[Callable[[Path], list[str]], int, str, Any]] = {
    "slurp-intent": (slurp, 4, "scenario_accuracy action_accuracy", ["alarm|set", "email|query"]),
    "slurp-slots": (slurp, 4, UNDERSTOOD, SLURP),
    "fsc": (fluent, 2, "action_accuracy object_accuracy location_accuracy",
            ["activate|lights|kitchen", "increase|volume|none"]),
    "snips": (snips, 2, UNDERSTOOD, SNIPS),
    "speech-commands": (speech_commands, 11, "accuracy macro_f1", sorted([*COMMANDS, "bed"])),
    "speech-commands-12": (twelve_classes, 12, "accuracy macro_f1", sorted([*COMMANDS, "_silence_", "_unknown_"])),
    "language": (common_voice, 2, "recall_cy recall_eu", ["cy", "eu"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_runs_on_its_corpus(name: str, tmp_path: Path) -> None:
    """Its scores are there, and its labels are the ones that it is about: all of them, or the first row's slots."""
    lay_out, utterances, scores, labels = PROTOCOLS[name]
    keys = [*lay_out(tmp_path / "corpus"), *FINETUNE, "size=tiny", *SMALLEST, "run.updates=1", "run.eval_every=1",
            "batch.max_s=20", "data.max_s=10", f"run.dir={tmp_path}/run"]  # fmt: skip
    fresh()
    with written():
        assert train(load_config(FinetuneConfig, [str(SHIPPED / f"{name}.yaml"), *keys], "")) == 0
    assert set(scores.split()) <= json.loads((tmp_path / "run/results.json").read_text())["test"].keys()
    rows = [json.loads(line)["reference"] for line in (tmp_path / "run/test.jsonl").read_text().splitlines()]
    assert len(rows) == utterances
    if isinstance(labels, list):
        assert labels == json.loads((tmp_path / "run/hub/labels.json").read_text()) and set(rows) == set(labels)
    else:
        assert rows[0] == labels
        tags = {f"<intent:{labels['intent']}>", f"<slot:{labels['slots'][0]['type']}>", "</slot>"}
        assert tags <= json.loads((tmp_path / "run/hub/vocab.json").read_text()).keys()


def test_every_shipped_protocol_is_run_here_and_states_its_source() -> None:
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == set(PROTOCOLS)
    for path in SHIPPED.glob("*.yaml"):
        header = path.read_text().split("task:")[0]
        assert "data.train=" in header and (path.stem == "language" or "arXiv" in header), path
