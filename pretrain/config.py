"""What a pretraining run is, as data: defaults equal arXiv 2407.13377, YAML and ``key=value`` state differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mixvec.data.config import DataConfig
from mixvec.model.config import EncoderConfig
from mixvec.training.config import BatchConfig, OptimConfig, RunConfig, check_at_least, check_names, check_run

from .objectives import KINDS, ContrastiveConfig, ObjectiveConfig

DIAGNOSES = ("collapsed-codebook", "stuck-at-chance", "exploding-gradient", "dimensional-collapse", "starved-loader",
             "schedule-too-long", "small-batch")  # fmt: skip


@dataclass(frozen=True)
class ProbeConfig:
    """A small labelled set that shows how good the encoder is while it trains (``pretrain/probe.py``)."""

    data: Any = None
    """Any source as ``data.train`` takes it, with a label for each utterance (``intent``, ``label``); null: none."""
    every: int = 250
    """It is scored at the first log line after every so many updates, and at the last."""
    max_utterances: int = 400
    """The largest number of utterances."""
    max_s: float = 600.0
    """Seconds of audio in all. As many utterances are taken as both limits allow, evenly over the labels."""


@dataclass(frozen=True)
class PretrainRun(RunConfig):
    compile: Literal["auto", True, False] = "auto"
    """torch.compile of the encoder's blocks; auto: on a GPU."""
    stop_on: tuple[str, ...] = ()
    """Diagnoses that end the run, with a checkpoint and an error; the names are those of the warnings."""


@dataclass(frozen=True)
class PretrainConfig:
    """A whole run. ``size`` fills ``encoder``, and ``objective.kind`` chooses the keys of ``objective``."""

    size: str = "base"
    """Named size that fills ``encoder``: tiny, small, base, large, wav2vec2-base, wav2vec2-large."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    objective: ObjectiveConfig = field(default_factory=ContrastiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    run: PretrainRun = field(default_factory=PretrainRun)

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> PretrainConfig:
        """The defaults for what the YAML and the command line give, by ``objective.kind``.

        Raises:
            ValueError: there is no such objective.
        """
        section = given.get("objective")
        kind = section.get("kind", "contrastive") if isinstance(section, dict) else "contrastive"
        if kind not in KINDS:
            raise ValueError(f"objective.kind={kind} is unknown; choose one of {', '.join(KINDS)}")
        return cls(objective=KINDS[kind][0]())

    def __post_init__(self) -> None:
        check_run(self)
        check_at_least(self, {"data.temperature": 0.1, "data.buffer_s": 0, "probe.every": 1, "probe.max_utterances": 4,
                              "probe.max_s": 1})  # fmt: skip
        if self.encoder.kind not in ("mixvec", "wav2vec2"):
            raise ValueError(f"encoder.kind={self.encoder.kind} has nothing to pretrain; choose mixvec or wav2vec2")
        check_names(self.run.stop_on, DIAGNOSES)
