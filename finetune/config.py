"""What a fine-tuning run is, as data."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mixvec import EncoderConfig
from mixvec.data.config import WaveformAugmentConfig
from mixvec.model import Kind, Layers
from mixvec.text import TextStyle
from mixvec.training.config import BatchConfig, OptimConfig, RunConfig, check_at_least, check_names, check_run

from .annotation import SlotConfig
from .asr_config import AsrConfig


@dataclass(frozen=True)
class LabelledData:
    """Which audio with labels: any source of ``pretrain/sources.py`` that has them."""

    train: Any = None
    valid: Any = None
    """Decides which checkpoint is the best; without it the last one is."""
    test: Any = None
    """Scored once, at the end, with the best checkpoint."""
    text: TextStyle = "plain"
    """plain: lower case, no punctuation; raw: as it stands. For training and scoring alike."""
    label: Any = None
    """Which fields of a row make its label: a name, or a list of them, joined by ``|``; null: the first of
    intent, label, keyword and command."""
    min_s: float = 0.1
    max_s: float = 30.0
    """Longer utterances are left out, since their labels cannot be cut; those of ``test`` never are."""
    workers: int = 2
    max_skipped: float = 1.0
    """The largest share of a split that may be skipped as unreadable when it is found, or when an epoch or an
    evaluation decodes it, before the run stops; 1 never stops. What an evaluation cannot decode counts as an error."""
    augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    """What is done to the waveforms of ``train``, never of ``valid`` or ``test``; nothing by default. The masks
    over features are in ``augment``, at the top. ``min_s`` and ``max_s`` are before a change of speed."""


@dataclass(frozen=True)
class HeadConfig:
    layers: Layers = "last"
    """weighted: a learned softmax-weighted sum of all layers, as in SUPERB."""
    layers_lr: float | None = None
    """Learning rate of the weights over layers; null: ``optim.lr``. MP3S has 1e-2."""
    dropout: float = 0.1
    kind: Kind = "own"
    """own: this task's head as it is. A probing head of SUPERB or MP3S stands between layers and output: linear, lstm,
    contextnet, xvector, ecapa (``mixvec/model/trunks.py``)."""
    width: int | None = None
    """Of a probing head; null: the paper's, which is 256 for linear, 1024 for lstm."""


@dataclass(frozen=True)
class IntentConfig:
    keep: tuple[str, ...] = ()
    """Labels to tell apart, where any other counts as ``rest``; none: all of them."""
    rest: str = "_unknown_"


@dataclass(frozen=True)
class AugmentConfig:
    """Spans of hidden frames and of silent feature channels, drawn anew each epoch (arXiv 2006.11477, section 4.3).

    These are masks over features; what is done to the waveform before is ``data.augment``.
    """

    time_prob: float = 0.5
    """Frames drawn into spans, counted with overlaps; 0 hides none."""
    time_span_frames: int = 10
    channel_prob: float = 0.25
    channel_span: float = 0.125
    """Width of a silent span, as a share of the channels."""


@dataclass(frozen=True)
class CacheConfig:
    """What a frozen encoder says, kept on disk for the next epoch and the next head (``finetune/frozen.py``)."""

    dir: str | None = None
    """Such as ~/.cache/mixvec/frames; null keeps nothing. It needs a run with nothing random before the encoder."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """fp32 changes no score by a bit; fp16 takes half the room."""


@dataclass(frozen=True)
class SpeakerConfig:
    """For task=speaker."""

    trials: str | None = None
    """A list as VoxCeleb1's, lines of 0 or 1 and two files; null: all pairs of a split."""
    max_trials: int = 200_000
    """Where a split has more pairs, so many of them are drawn, always the same."""
    crop_s: float | None = 3.0
    """What training hears of an utterance each time, from a random place; null: all of it."""
    margin: float = 0.2
    """AAM-softmax, in radians; and its scale."""
    scale: float = 30.0
    embedding: int = 192


@dataclass(frozen=True)
class EmotionConfig:
    """For task=emotion."""

    fold: int | None = None
    """IEMOCAP: the session, 1 to 5, that is tested on and held out of train and valid; four classes."""


TASKS = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "tasks")]))
"""The files of finetune/tasks."""
DIAGNOSES = ("exploding-gradient", "starved-loader", "schedule-too-long", "frozen-encoder", "overfitting")


@dataclass(frozen=True)
class FinetuneRun(RunConfig):
    dir: str = "runs/finetune"
    updates: int = 2000
    eval_every: int = 200
    stop_on: tuple[str, ...] = ()
    """Diagnoses that end the run, with a checkpoint and an error; the best model so far is in ``hub`` then."""


@dataclass(frozen=True)
class FinetuneOptim(OptimConfig):
    lr: float = 1e-3
    """Of the head."""
    encoder_lr: float | None = None
    """Of the encoder; null: the same."""
    layer_decay: float = 1.0
    """Each encoder layer's rate over that of the layer above it; the last has ``encoder_lr``, and what lies below the
    layers counts as one more (Clark et al., arXiv 2003.10555). 1: all alike."""
    weight_decay: float = 0.01
    clip_norm: float = 5.0


@dataclass(frozen=True)
class FinetuneConfig:
    """A whole run: ``pretrained`` to start from an encoder, or ``size`` to start from scratch."""

    task: str = "asr"
    """One of the files in finetune/tasks: asr, intent, slots, …"""
    pretrained: str | None = None
    """A run directory, a hub folder or a hub name; of transformers, any encoder of the wav2vec 2.0 family."""
    baseline: Literal["log-mel", "random", "scratch"] | None = None
    """What to compare with, in the encoder's place: log-mel features, or an encoder of the same shape (``pretrained``'s
    or ``size``'s) drawn from the seed, which stays as it is (random) or is trained from the first update (scratch)."""
    size: str | None = None
    """From scratch: tiny, small, base, …; it fills ``encoder``."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dropout: float | None = None
    """Of a pretrained encoder while it is fine-tuned; null: as it was pretrained."""
    best_by: Literal["wer", "cer"] = "wer"
    """Which error rate on ``data.valid`` decides for asr; cer where words are not set apart, or hardly any is right."""
    freeze: float = 0.0
    """The share of the run in which the encoder stays frozen; 1 is a frozen probe. From scratch it is 0, or 1."""
    data: LabelledData = field(default_factory=LabelledData)
    head: HeadConfig = field(default_factory=HeadConfig)
    asr: AsrConfig = field(default_factory=AsrConfig)
    intent: IntentConfig = field(default_factory=IntentConfig)
    slots: SlotConfig = field(default_factory=SlotConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    speaker: SpeakerConfig = field(default_factory=SpeakerConfig)
    emotion: EmotionConfig = field(default_factory=EmotionConfig)
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(update_s=60.0, max_s=120.0))
    optim: FinetuneOptim = field(default_factory=FinetuneOptim)
    run: FinetuneRun = field(default_factory=FinetuneRun)

    @property
    def crop_s(self) -> float | None:
        """What training hears of an utterance; None: all of it."""
        return self.speaker.crop_s if self.task == "speaker" else None

    def __post_init__(self) -> None:
        check_run(self)
        check_at_least(self, {"speaker.max_trials": 1, "speaker.margin": 0, "speaker.scale": 1e-6,
                              "speaker.embedding": 2})  # fmt: skip
        if self.speaker.crop_s is not None and self.speaker.crop_s <= 0:
            raise ValueError(f"speaker.crop_s={self.speaker.crop_s} must be over 0, or null for whole utterances")
        if self.emotion.fold not in (None, 1, 2, 3, 4, 5):
            raise ValueError(f"emotion.fold={self.emotion.fold} is a session of IEMOCAP, 1 to 5, or null")
        if self.task not in TASKS:
            raise ValueError(f"task={self.task}: no such task; choose among {', '.join(TASKS)}")
        if self.pretrained is not None and (self.size is not None or self.encoder != EncoderConfig()):
            raise ValueError("pretrained brings its own encoder: leave out size and encoder.*, or pretrained")
        if not 0.0 <= self.freeze <= 1.0:
            raise ValueError(f"freeze={self.freeze} must lie in [0, 1]")
        if self.baseline == "scratch" and self.freeze == 1.0:
            raise ValueError("baseline=scratch trains its encoder: set freeze=0, or baseline=random")
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.optim.encoder_lr is not None and not (self.optim.encoder_lr >= 0 and self.optim.lr > 0):
            raise ValueError(f"optim.lr={self.optim.lr} must be over 0 and optim.encoder_lr={self.optim.encoder_lr} at "
                             "least 0; null takes optim.lr for the encoder too")  # fmt: skip
        if self.head.width is not None and (self.head.width < 8 or self.head.width % 8):
            raise ValueError(f"head.width={self.head.width} must be a multiple of 8")
        if self.head.kind != "own" and self.asr.decoder != "none":
            raise ValueError(f"head.kind={self.head.kind} is a head without a decoder; set asr.decoder=none")
        if not 0.0 < self.optim.layer_decay <= 1.0:
            raise ValueError(f"optim.layer_decay={self.optim.layer_decay} must lie in (0, 1]")
        for key in ("time_prob", "channel_prob"):
            if not 0.0 <= getattr(self.augment, key) < 1.0:
                raise ValueError(f"augment.{key}={getattr(self.augment, key)} must lie in [0, 1)")
        if not 0.0 < self.augment.channel_span <= 1.0 or self.augment.time_span_frames < 1:
            raise ValueError("augment.channel_span must lie in (0, 1] and augment.time_span_frames be at least 1")
        slowest = self.data.augment.slowest
        if self.batch.max_s < self.data.max_s / slowest:
            raise ValueError(f"batch.max_s={self.batch.max_s} cannot hold an utterance of data.max_s={self.data.max_s} "
                             f"seconds at data.augment.speed={slowest}")  # fmt: skip
        if self.run.eval_every < 1:
            raise ValueError(f"run.eval_every={self.run.eval_every} must be at least 1")
        check_names(self.run.stop_on, DIAGNOSES)
