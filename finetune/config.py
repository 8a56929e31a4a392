"""The configuration of a fine-tuning run: what all tasks share, and a section for each task that has one."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixvec import EncoderConfig
from mixvec.training.config import BatchConfig, check_ranges, check_run

from .sections import AugmentConfig, CacheConfig, FinetuneOptim, TaskConfig
from .tasks.asr import AsrConfig
from .tasks.emotion import EmotionConfig
from .tasks.intent import IntentConfig
from .tasks.slots import SlotConfig
from .tasks.speaker import SpeakerConfig

TASKS = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "tasks")]))
"""The files of finetune/tasks."""


@dataclass(frozen=True)
class FinetuneConfig(TaskConfig):
    """A whole run: ``pretrained`` to start from an encoder, or ``size`` to start from scratch."""

    pretrained: str | None = None
    """A run directory, a hub folder or a hub name; of transformers, any encoder of the wav2vec 2.0 family."""
    baseline: Literal["log-mel", "random", "scratch"] | None = None
    """A baseline in the encoder's place: log-mel features, or an encoder of the same shape (``pretrained``'s or
    ``size``'s) with weights drawn from the seed, frozen (random) or trained from the first update (scratch)."""
    size: str | None = None
    """From scratch: tiny, small, base, …; it fills ``encoder``."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dropout: float | None = None
    """Dropout of a pretrained encoder while it is fine-tuned; null: as in pretraining."""
    streaming: bool = False
    """Fine-tune the encoder to stream, as ``encoder.streaming`` does in pretraining; one that was pretrained without
    gets constants in place of its normalisation over utterances."""
    freeze: float = 0.0
    """The share of the run in which the encoder is frozen; 1 is a frozen probe. From scratch it is 0 or 1."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(update_s=60.0, max_s=120.0))
    optim: FinetuneOptim = field(default_factory=FinetuneOptim)
    asr: AsrConfig = field(default_factory=AsrConfig)
    intent: IntentConfig = field(default_factory=IntentConfig)
    slots: SlotConfig = field(default_factory=SlotConfig)
    speaker: SpeakerConfig = field(default_factory=SpeakerConfig)
    emotion: EmotionConfig = field(default_factory=EmotionConfig)

    @property
    def crop_s(self) -> float | None:
        """Seconds of an utterance that training reads each time, from the task's own section; None: all of it."""
        return getattr(getattr(self, self.task, None), "crop_s", None)

    def is_frozen(self, progress: float) -> bool:
        """Whether the encoder is frozen at a fraction ``progress`` of the run. From scratch: always or never."""
        if self.pretrained is not None and self.baseline is None:
            return progress <= self.freeze
        return self.freeze == 1.0 or self.baseline in ("log-mel", "random")

    def encodes_alone(self, *, training: bool) -> bool:
        """Whether the encoder is frozen for the whole run, with nothing random before it."""
        waves, masks = self.data.augment, self.augment
        random = any((waves.speed, waves.reverb, waves.noise, waves.mix_prob, masks.time_prob, masks.channel_prob))
        return self.is_frozen(1.0) and not (training and (random or self.crop_s))

    def __post_init__(self) -> None:
        check_run(self)
        if self.task not in TASKS:
            raise ValueError(f"task={self.task}: no such task; choose among {', '.join(TASKS)}")
        if self.pretrained is not None and (self.size is not None or self.encoder != EncoderConfig()):
            raise ValueError("pretrained brings its own encoder: leave out size and encoder.*, or pretrained")
        if self.data.join_s and self.task != "asr":
            raise ValueError(f"data.join_s={self.data.join_s} joins texts; task={self.task} labels utterances")
        if self.streaming and self.baseline == "log-mel":
            raise ValueError("streaming=true needs an encoder; baseline=log-mel has none")
        check_ranges(self, {"freeze": "[0, 1]", "dropout": "[0, 1)"})
        if self.baseline == "scratch" and self.freeze == 1.0:
            raise ValueError("baseline=scratch trains its encoder: set freeze=0, or baseline=random")
        if self.head.kind != "own" and self.asr.decoder != "none":
            raise ValueError(f"head.kind={self.head.kind} is a head without a decoder; set asr.decoder=none")
        slowest = self.data.augment.slowest
        if self.batch.max_s < self.data.max_s / slowest:
            raise ValueError(f"batch.max_s={self.batch.max_s} cannot hold an utterance of data.max_s={self.data.max_s} "
                             f"seconds at data.augment.speed={slowest}")  # fmt: skip
