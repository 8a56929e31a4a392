"""What a pretraining run is, as data: defaults equal arXiv 2407.13377, YAML and ``key=value`` state differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mixvec import EncoderConfig
from mixvec.data.config import DataConfig
from mixvec.training.config import BatchConfig, OptimConfig, RunConfig, check_at_least, check_names, check_run

from .objectives.contrastive import ObjectiveConfig


@dataclass(frozen=True)
class ProbeConfig:
    """A small labelled set that shows what the encoder is worth while it trains (``pretrain/probe.py``)."""

    data: Any = None
    """Any source as ``data.train`` takes it, with a label for each utterance (``intent``, ``label``); null: none."""
    every: int = 250
    """It is scored at the first log line after every so many updates, and at the last."""
    max_utterances: int = 400
    max_s: float = 600.0
    """Seconds of audio in all. As many utterances are taken as both allow, evenly over the labels."""


DIAGNOSES = ("collapsed-codebook", "stuck-at-chance", "exploding-gradient", "dimensional-collapse", "starved-loader",
             "schedule-too-long", "small-batch")  # fmt: skip


@dataclass(frozen=True)
class PretrainRun(RunConfig):
    compile: Literal["auto", True, False] = "auto"
    """torch.compile of the encoder's blocks (``pretrain/compiling.py``); auto: on a GPU."""
    stop_on: tuple[str, ...] = ()
    """Diagnoses that end the run, with a checkpoint and an error; the names are those that the warnings bear."""


@dataclass(frozen=True)
class PretrainConfig:
    """A whole run. ``size`` fills ``encoder`` before anything else is read."""

    size: str = "base"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    run: PretrainRun = field(default_factory=PretrainRun)

    def __post_init__(self) -> None:
        check_run(self)
        at_least = {"data.temperature": 0.1, "data.buffer_s": 0, "data.gate.silence_s": 0, "data.gate.pad_s": 0,
                    "objective.distractors": 1, "objective.mask_span_frames": 2, "objective.codebooks": 1,
                    "objective.entries": 2, "objective.logit_temperature": 1e-6, "objective.gumbel_start": 1e-6,
                    "objective.gumbel_end": 1e-6, "objective.gumbel_fraction": 0, "probe.every": 1,
                    "probe.max_utterances": 4, "probe.max_s": 1}  # fmt: skip
        check_at_least(self, at_least)
        if self.encoder.kind not in ("mixvec", "wav2vec2"):
            raise ValueError(f"encoder.kind={self.encoder.kind} has nothing to pretrain; choose mixvec or wav2vec2")
        if not 0.0 < self.objective.mask_prob <= 1.0:
            raise ValueError(f"objective.mask_prob={self.objective.mask_prob} must lie in (0, 1]")
        if self.objective.code_dim % self.objective.codebooks:
            raise ValueError("objective.code_dim must be a multiple of objective.codebooks")
        if not 0.0 < self.data.longest_share <= 1.0:
            raise ValueError(f"data.longest_share={self.data.longest_share} is a share of the hours: over 0, at most 1")
        if self.data.gate.below_db is not None and not self.data.gate.below_db > 0:
            raise ValueError(f"data.gate.below_db={self.data.gate.below_db} must be over 0 dB, or null for no gate")
        if self.data.stream and self.data.temperature != 1.0:
            raise ValueError("data.temperature needs the hours of each corpus, unknown to data.stream; give weights")
        if self.data.stream and (self.data.longest_share < 1.0 or self.data.gate.below_db is not None):
            raise ValueError("data.longest_share and data.gate look at all utterances first, as no data.stream can")
        check_names(self.run.stop_on, DIAGNOSES)
