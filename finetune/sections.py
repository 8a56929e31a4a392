"""The parts of a fine-tuning's configuration that do not depend on the task, and what a task reads of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from mixvec.data.config import WaveformAugmentConfig, check_channel, check_join
from mixvec.model import Kind, Layers
from mixvec.text import TextStyle
from mixvec.training.config import OptimConfig, RunConfig, check_names, check_ranges

DIAGNOSES = ("exploding-gradient", "starved-loader", "schedule-too-long", "frozen-encoder", "overfitting")
Section = TypeVar("Section")


@dataclass(frozen=True)
class LabelledData:
    """Labelled audio: any source of ``mixvec/data/sources.py`` that has labels."""

    train: Any = None
    """The training data."""
    valid: Any = None
    """Decides which checkpoint is the best; null: the last one."""
    test: Any = None
    """Scored once, at the end, with the best checkpoint."""
    label: Any = None
    """Which fields of a row make its label: a name, or a list of names, joined by ``|``; null: the first of
    intent, label, keyword and command."""
    minutes: float | None = None
    """Train on at most this many minutes of ``train``: utterances drawn by ``run.seed``; null: all. Each seed draws
    its own, and more minutes contain those of fewer."""
    channel: str = "mean"
    """Which channel of audio that has several: mean of all, the number of one (from 0), or loudest."""
    min_s: float = 0.1
    """Shorter utterances are skipped."""
    max_s: float = 30.0
    """Longer utterances are skipped, since their labels cannot be cut; those of ``test`` are always scored."""
    join_s: float = 0.0
    """``task=asr``: join neighbouring utterances of ``train``, of one recording or speaker (of one folder, where rows
    name no speaker), to at most this many seconds, at most ``max_s``; 0 joins none."""
    workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""
    max_skipped: float = 1.0
    """The largest share of a split that may be skipped as unreadable, when it is found or when an epoch or an
    evaluation decodes it, before the run stops; 1 never stops. What an evaluation cannot decode counts as an error."""
    augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    """Augmentation of the waveforms of ``train``, never of ``valid`` or ``test``; none by default. The masks over
    features are in ``augment``, at the top level. ``min_s`` and ``max_s`` apply before a change of speed."""

    def __post_init__(self) -> None:
        check_channel(self.channel)
        check_ranges(self, {"minutes": "(0, inf)"}, "data.")
        check_join(self.join_s, self.max_s)


@dataclass(frozen=True)
class TextConfig:
    """How texts are normalised, for training and scoring; it is stored in the model."""

    normalise: TextStyle = "basic"
    """none: as they are written. basic: lower case, no punctuation but for apostrophes inside words and in numbers.
    turkish: basic, with I and ı apart from İ and i. ``tools.inspect --labels`` shows examples."""


@dataclass(frozen=True)
class HeadConfig:
    layers: Layers = "last"
    """weighted: a learned softmax-weighted sum of all layers, as in SUPERB."""
    layers_lr: float | None = None
    """Learning rate of the weights over layers; null: ``optim.lr``. MP3S uses 1e-2."""
    dropout: float = 0.1
    """Dropout in the head."""
    kind: Kind = "own"
    """own: the task's usual head. Otherwise a probing head of SUPERB or MP3S between layers and output: linear, lstm,
    contextnet, xvector, ecapa (``mixvec/model/trunks.py``)."""
    width: int | None = None
    """Width of a probing head; null: the paper's, which is 256 for linear, 1024 for lstm."""

    def __post_init__(self) -> None:
        if self.width is not None and (self.width < 8 or self.width % 8):
            raise ValueError(f"head.width={self.width} must be a multiple of 8")


@dataclass(frozen=True)
class AugmentConfig:
    """Spans of masked frames and of zeroed feature channels, drawn again each epoch (arXiv 2006.11477, section 4.3).

    These are masks over features; augmentation of waveforms is ``data.augment``.
    """

    time_prob: float = 0.5
    """Share of the frames drawn into spans, overlaps counted twice; 0 masks none."""
    time_span_frames: int = 10
    """Length of a masked span."""
    channel_prob: float = 0.25
    """Share of the channels drawn into spans; 0 zeroes none."""
    channel_span: float = 0.125
    """Width of a zeroed span, as a share of the channels, at most half."""

    def __post_init__(self) -> None:
        ranges = {"time_prob": "[0, 1)", "channel_prob": "[0, 1)", "channel_span": "(0, 0.5]"}
        check_ranges(self, ranges | {"time_span_frames": "[1, inf)"}, "augment.")


@dataclass(frozen=True)
class CacheConfig:
    """The frames of a frozen encoder, kept on disk for the next epoch and the next head (``finetune/frozen.py``)."""

    dir: str | None = None
    """Such as ~/.cache/mixvec/frames; null keeps nothing. It needs a run with nothing random before the encoder."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """fp32 gives bitwise the same scores as no cache; fp16 takes half the disk space."""


@dataclass(frozen=True)
class FinetuneRun(RunConfig):
    dir: str = "runs/finetune"
    updates: int = 2000
    eval_every: int = 200
    """Updates between two evaluations on ``data.valid``."""
    stop_on: tuple[str, ...] = ()
    """Diagnoses that end the run, with a checkpoint and an error; the best model so far is in ``hub``."""

    def __post_init__(self) -> None:
        check_ranges(self, {"eval_every": "[1, inf)"}, "run.")
        check_names(self.stop_on, DIAGNOSES)


@dataclass(frozen=True)
class FinetuneOptim(OptimConfig):
    lr: float = 1e-3
    """Learning rate of the head."""
    encoder_lr: float | None = None
    """Learning rate of the encoder; null: same as ``optim.lr``."""
    layer_decay: float = 1.0
    """Each encoder layer's rate over that of the layer above it; the last layer has ``encoder_lr``, and what is below
    the layers counts as one more (Clark et al., arXiv 2003.10555). 1: one rate for all layers."""
    weight_decay: float = 0.01
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        ranges = {"encoder_lr": "[0, inf)", "layer_decay": "(0, 1]"}
        check_ranges(self, ranges if self.encoder_lr is None else ranges | {"lr": "(0, inf)"}, "optim.")


@dataclass(frozen=True)
class TaskConfig:
    """What a task reads of a run's configuration. The section of a task is in the task's own file."""

    task: str = "asr"
    """A file in finetune/tasks: asr, intent, slots, …"""
    best_by: Literal["wer", "cer"] = "wer"
    """For task=asr: the error rate on ``data.valid`` that decides which checkpoint is the best; the other decides ties.
    Where the training texts have no spaces it is cer in any case."""
    data: LabelledData = field(default_factory=LabelledData)
    text: TextConfig = field(default_factory=TextConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    run: FinetuneRun = field(default_factory=FinetuneRun)

    def section(self, kind: type[Section]) -> Section:
        """The section of type ``kind``, such as ``speaker`` for ``SpeakerConfig``; its defaults without one."""
        values = (getattr(self, item.name) for item in fields(self))
        return next((value for value in values if isinstance(value, kind)), None) or kind()
