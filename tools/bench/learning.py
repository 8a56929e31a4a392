"""What an encoder has learned after so many minutes: ours beside wav2vec 2.0 of other frameworks, on the same audio.

    python -m tools.bench.learning "DATA/*/train" --minutes 10,30,60 --out runs/learning        9 hours on 2 cores

Each system is trained for each budget of wall-clock time anew, since its learning rate falls to zero at the end of it,
in this process and one after another: the same audio and batches, AdamW, and one-cycle learning rate; each with its own
objective, and the highest rate that its authors or this project recommend. Then the same probe reads its frozen
frames: phone accuracy on synthesised speech of unheard voices, in the best layer (``tools.probe.frames``). A budget
that is complete is not repeated, so the command may be stopped and typed again. Run it on an idle machine.
"""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import nn

from mixvec.atomic import write_whole
from mixvec.data.batches import LoaderConfig, Updates
from mixvec.data.segments import cut_long
from mixvec.data.sources import find_utterances
from mixvec.errors import UserError, run_cli
from mixvec.hub import load_encoder
from mixvec.training.config import load_config
from mixvec.training.optim import learning_rate
from pretrain.config import PretrainConfig
from tools import command_parser
from tools.corpus import TEST_VOICES, TRAIN_VOICES
from tools.probe.frames import measure, speech
from tools.report.figures import PAPER, Line, curves

from .ours import CONFIGS, Learner, learner
from .peers import FAIRSEQ2_TINY, TINY, fairseq2, transformers

CONTRASTIVE = ("objective.kind=contrastive", "objective.diversity_weight=1")
ATTENTION = "encoder.mixer=attention"
OURS = {"units": (), "units, attention": (ATTENTION,), "contrastive": CONTRASTIVE,
        "contrastive, attention": (*CONTRASTIVE, ATTENTION)}  # fmt: skip
SYSTEMS = (*OURS, "transformers wav2vec 2.0", "fairseq2 wav2vec 2.0")


def build(system: str, seed: int) -> Learner:
    """A system of ``tiny``'s width and depth, ready to be trained."""
    torch.manual_seed(seed)
    if system in OURS:
        keys = [str(CONFIGS / "tiny.yaml"), *OURS[system], f"run.seed={seed}"]
        return learner(load_config(PretrainConfig, keys, ""))
    return transformers("Wav2Vec2", TINY) if "transformers" in system else fairseq2(FAIRSEQ2_TINY, code_dim=128)


def train(system: Learner, source: str, minutes: float, seed: int) -> dict[str, float]:
    """Train for ``minutes`` of wall-clock time: the updates and the hours of audio that were seen.

    The schedule is a function of time: warm-up in its first tenth, then linear to zero. There is one update at least.
    """
    config = load_config(PretrainConfig, [str(CONFIGS / "tiny.yaml")], "")
    corpus = find_utterances(source, "DATA")
    corpus.keep_durations(min_s=config.data.min_s)
    cut_long(corpus, config.data)
    loader = LoaderConfig(config.batch.update_s, config.batch.max_s, config.data.max_s, config.data.min_s, 0, seed)
    updates: Updates[Any] = Updates(corpus, system.collate, loader)
    model = system.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), system.lr, weight_decay=config.optim.weight_decay)
    began, seen_s, number = time.monotonic(), 0.0, 0
    system.start(updates)
    for number, (_, parts) in enumerate(updates.start(None), start=1):
        progress = min(1.0, (time.monotonic() - began) / (60 * minutes))
        if progress == 1 and number > 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = system.lr * learning_rate(progress, config.optim) / config.optim.lr
        for loss in system.losses([part.batch for part in parts], number, progress):
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        seen_s += sum(part.seconds for part in parts)
    return {"updates": number - 1, "hours_seen": seen_s / 3600, "minutes": minutes}


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Phone accuracy against minutes, a line for each system and seed."""
    lines, systems = [], list(dict.fromkeys(row["system"] for row in rows))
    for system, seed in dict.fromkeys((row["system"], row["seed"]) for row in rows):
        own = np.array(
            [(row["minutes"], row["phone"]) for row in rows if (row["system"], row["seed"]) == (system, seed)]
        )
        lines.append(Line("" if seed else system, own[:, 0], own[:, 1], systems.index(system)))
    with matplotlib.rc_context(PAPER):
        curves(lines, "%", x_label="minutes of training").savefig(file, facecolor="white")


def main() -> None:
    parser = command_parser("bench.learning", __doc__)
    parser.add_argument("data", metavar="DATA", help="audio, as data.train of a pretraining")
    parser.add_argument("--minutes", metavar="A,B", default="10,30,60", help="budgets of training (10,30,60)")
    parser.add_argument("--systems", metavar="A;B", default=";".join(SYSTEMS), help="some of them (all)")
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="repeat each with seeds 0 to N - 1 (1)")
    parser.add_argument("--seconds", metavar="S", type=float, default=600.0, help="of speech for the probe (600)")
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("runs/learning"), help="runs/learning")
    args = parser.parse_args()
    systems = args.systems.split(";")
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise UserError(f"--systems: no system {unknown[0]}; choose among {'; '.join(SYSTEMS)}")
    spoken = speech(args.seconds, TRAIN_VOICES, 0), speech(args.seconds, TEST_VOICES, 1)
    rows = []
    for minutes, seed, system in product(map(float, args.minutes.split(",")), range(args.seeds), systems):
        folder = args.out / f"{system.replace(', ', '-').replace(' ', '-')}-{minutes:g}min-{seed}"
        if not (folder / "scores.json").exists():
            trained = build(system, seed)
            facts = train(trained, args.data, minutes, seed)
            trained.save(folder)
            encoder = load_encoder(str(folder))
            phone = max(row["phone"] for row in measure(encoder, *spoken, []))
            row = {"system": system, "seed": seed, "phone": phone, **facts}
            write_whole(folder / "scores.json", json.dumps(row) + "\n")
        rows.append(json.loads((folder / "scores.json").read_text()))
        line = "{system}, {minutes:g} min, seed {seed}: {hours_seen:.2f} h of audio, phone accuracy {phone:.3f}"
        print(line.format(**rows[-1]), flush=True)
    write_whole(args.out / "learning.json", json.dumps(rows, indent=1) + "\n")
    plot(rows, args.out / "learning.svg")


if __name__ == "__main__":
    run_cli(main)
