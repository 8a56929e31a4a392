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
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixvec.atomic import write_whole
from mixvec.build import build_encoder
from mixvec.data.batches import Clip, LoaderConfig, Updates, pad
from mixvec.data.segments import cut_long
from mixvec.data.sources import find_utterances
from mixvec.errors import UserError, run_cli
from mixvec.hub import load_encoder, open_encoder, save_folder
from mixvec.training.config import load_config
from mixvec.training.optim import learning_rate
from mixvec.training.randomness import seed_update
from pretrain.config import PretrainConfig
from pretrain.objectives import build_objective
from tools import command_parser
from tools.corpus import TEST_VOICES, TRAIN_VOICES
from tools.probe.frames import measure, speech

from .ours import CONFIGS
from .peers import Trained, tiny_fairseq2, tiny_transformers

CONTRASTIVE = ("objective.kind=contrastive", "objective.diversity_weight=1")
ATTENTION = "encoder.mixer=attention"
OURS = {"units": (), "units, attention": (ATTENTION,), "contrastive": CONTRASTIVE,
        "contrastive, attention": (*CONTRASTIVE, ATTENTION)}  # fmt: skip
PEERS = {"transformers wav2vec 2.0": tiny_transformers, "fairseq2 wav2vec 2.0": tiny_fairseq2}


class Learner(NamedTuple):
    """A system in pretraining."""

    model: nn.Module
    lr: float
    """The highest learning rate."""
    collate: Callable[[list[Clip]], Any]
    start: Callable[[Updates[Any]], None]
    """Called once, with the data, while the clock runs."""
    losses: Callable[[list[Any], int, float], Iterator[Tensor]]
    """The batches of an update, its number and the progress in (0, 1], to the loss of each."""
    save: Callable[[Path], None]
    """Write a folder from which ``open_encoder`` reads the encoder."""


def ours(keys: tuple[str, ...], seed: int) -> Learner:
    """``tiny`` with its own objective, as ``python -m pretrain`` trains it."""
    config = load_config(PretrainConfig, [str(CONFIGS / "tiny.yaml"), *keys, f"run.seed={seed}"], "")
    objective: Any = build_objective(config.objective, build_encoder(config.encoder))

    def start(updates: Updates[Any]) -> None:
        if objective.due(1e-9):
            objective.fit(updates.sample, seed, print)

    def losses(batches: list[Any], update: int, progress: float) -> Iterator[Tensor]:
        prepared = [objective.prepare(batch, recompute=False) for batch in batches]
        totals = torch.stack([ready.totals for ready in prepared]).sum(0)
        for ready in prepared:
            seed_update(objective.encoder, seed, update, ready.batch.keys)
            yield objective(ready, totals, progress).loss

    def save(folder: Path) -> None:
        save_folder(objective.encoder, folder)

    return Learner(objective, config.optim.lr, objective.collate, start, losses, save)


def peer(build: Callable[[], Trained]) -> Learner:
    """A system of another framework; its loss is a mean, so that micro-batches count by their seconds."""
    model, lr, loss, save = build()

    def collate(clips: list[Clip]) -> tuple[Tensor, Tensor]:
        return pad([clip.waveform for clip in clips])

    def losses(batches: list[tuple[Tensor, Tensor]], update: int, progress: float) -> Iterator[Tensor]:
        whole = sum(int(lengths.sum()) for _, lengths in batches)
        for waveforms, lengths in batches:
            yield loss(waveforms, lengths) * (int(lengths.sum()) / whole)

    return Learner(model, lr, collate, lambda updates: None, losses, save)


def train(learner: Learner, source: str, minutes: float, seed: int) -> dict[str, float]:
    """Train for ``minutes`` of wall-clock time: the updates and the hours of audio that were seen.

    The schedule is a function of time: warm-up in its first tenth, then linear to zero.
    """
    config = load_config(PretrainConfig, [str(CONFIGS / "tiny.yaml")], "")
    corpus = find_utterances(source, "DATA")
    corpus.keep_durations(min_s=config.data.min_s)
    cut_long(corpus, config.data)
    loader = LoaderConfig(config.batch.update_s, config.batch.max_s, config.data.max_s, config.data.min_s, 0, seed)
    updates: Updates[Any] = Updates(corpus, learner.collate, loader)
    model = learner.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), learner.lr, weight_decay=config.optim.weight_decay)
    began, seen_s, number = time.monotonic(), 0.0, 0
    learner.start(updates)
    for number, (_, parts) in enumerate(updates.start(None), start=1):
        progress = (time.monotonic() - began) / (60 * minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learner.lr * learning_rate(progress, config.optim) / config.optim.lr
        for loss in learner.losses([part.batch for part in parts], number, progress):
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        seen_s += sum(part.seconds for part in parts)
    return {"updates": number - 1, "hours_seen": seen_s / 3600, "minutes": minutes}


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Phone accuracy against minutes, a line for each system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for number, system in enumerate(dict.fromkeys(row["system"] for row in rows)):
        own = sorted((row["minutes"], 100 * row["phone"]) for row in rows if row["system"] == system)
        axis.plot(
            *zip(*own, strict=True), marker="osD^vP*X"[number % 8], linestyle=("-", "--", ":")[number % 3], label=system
        )
    axis.set(xlabel="minutes of training", ylabel="phone accuracy, %")
    axis.legend(fontsize="small")
    figure.savefig(file)


def arguments() -> ArgumentParser:
    parser = command_parser("bench.learning", __doc__)
    parser.add_argument("data", metavar="DATA", help="audio, as data.train of a pretraining")
    parser.add_argument("--minutes", metavar="A,B", default="10,30,60", help="budgets of training (10,30,60)")
    parser.add_argument("--systems", metavar="A;B", default=";".join([*OURS, *PEERS]), help="some of them (all)")
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="repeat each with seeds 0 to N - 1 (1)")
    parser.add_argument("--seconds", metavar="S", type=float, default=600.0, help="of speech for the probe (600)")
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("runs/learning"), help="runs/learning")
    return parser


def main() -> None:
    args = arguments().parse_args()
    systems = args.systems.split(";")
    if unknown := [name for name in systems if name not in OURS | PEERS]:
        raise UserError(f"--systems: no system {unknown[0]}; choose among {'; '.join([*OURS, *PEERS])}")
    spoken = speech(args.seconds, TRAIN_VOICES, 0), speech(args.seconds, TEST_VOICES, 1)
    rows = []
    for minutes in map(float, args.minutes.split(",")):
        for seed in range(args.seeds):
            for system in systems:
                folder = args.out / f"{system.replace(', ', '-').replace(' ', '-')}-{minutes:g}min-{seed}"
                if not (folder / "scores.json").exists():
                    torch.manual_seed(seed)
                    learner = ours(OURS[system], seed) if system in OURS else peer(PEERS[system])
                    facts = train(learner, args.data, minutes, seed)
                    learner.save(folder)
                    encoder = (load_encoder if system in OURS else open_encoder)(str(folder)).eval()
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
