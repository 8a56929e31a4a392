"""Which audio a run reads and what is done to it, as data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WaveformAugmentConfig:
    """Augmentation of the waveforms of ``data.train``, in this order; each step is off until its key turns it on."""

    speed: tuple[float, ...] = ()
    """Speed factors in hundredths, such as [0.9,1.0,1.1], of which each utterance draws one per epoch; tempo and pitch
    change."""
    reverb: Any = None
    """Room impulse responses: a folder, or whatever else ``data.train`` may be. Their channels are averaged."""
    reverb_prob: float = 0.5
    """Share of the utterances that are reverberated."""
    mix_prob: float = 0.0
    """Probability that another training utterance is mixed into up to half of an utterance; 0.2 in WavLM."""
    mix_ratio_db: tuple[float, float] = (-5.0, 5.0)
    """Energy of the utterance relative to the other's."""
    noise: Any = None
    """Noises: a folder, or whatever else ``data.train`` may be."""
    noise_prob: float = 0.5
    """Share of the utterances that noise is added to."""
    noise_snr_db: tuple[float, float] = (0.0, 15.0)
    """Energy of the utterance relative to the noise."""

    def __post_init__(self) -> None:
        for factor in self.speed:
            if not 0.5 <= factor <= 2.0 or abs(factor - round(factor, 2)) > 1e-9:
                raise ValueError(f"data.augment.speed: {factor} must be in [0.5, 2], in whole hundredths")
        for name in ("reverb_prob", "mix_prob", "noise_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"data.augment.{name}={getattr(self, name)} must be in [0, 1]")
        for name in ("mix_ratio_db", "noise_snr_db"):
            low, high = getattr(self, name)
            if not -100.0 <= low <= high <= 100.0:
                raise ValueError(f"data.augment.{name}=[{low},{high}] must be a range of decibels, the lower first")

    @property
    def slowest(self) -> float:
        """The lowest of the factors and 1."""
        return min((1.0, *self.speed))

    @property
    def fastest(self) -> float:
        """The highest of the factors and 1."""
        return max((1.0, *self.speed))


def check_channel(channel: str) -> None:
    """Raise ValueError where ``data.channel`` names none."""
    if channel not in ("mean", "loudest") and not channel.isdecimal():
        raise ValueError(f"data.channel={channel} must be mean, loudest, or the number of a channel, from 0")


@dataclass(frozen=True)
class DataConfig:
    """Which audio, and how it is read."""

    train: Any = None
    """A folder, a manifest, tars, Parquet, a corpus as unpacked, a hub name, a URL, a glob, or a list of these,
    each also as {source: DIR, weight: 2}; ``python -m mixvec.data.readers`` lists the forms."""
    temperature: float = 1.0
    """Sources in a list share an epoch as weight × hours^(1/temperature); 1 leaves them as they are."""
    min_s: float = 1.0
    """Shorter utterances are skipped and counted."""
    max_s: float = 30.0
    """Longer utterances are cut into segments of even length, at most this, that cover all of it."""
    join_s: float = 0.0
    """Join neighbouring utterances of one recording or speaker (of one folder, where rows name no speaker) to at most
    this many seconds, at most ``max_s``; 0 joins none."""
    channel: str = "mean"
    """Which channel of audio that has several: mean of all, the number of one (from 0), or loudest, of each segment."""
    longest_share: float = 1.0
    """Only the longest utterances, after cutting, that make up this share of the hours (arXiv 2601.20896)."""
    workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""
    max_skipped: float = 1.0
    """The largest share of utterances that may be skipped as unreadable, in the scan or in an epoch, before the run
    stops; 1 never stops."""
    stream: bool = False
    """Stream the data, each rank its own shards, without scanning it first."""
    buffer_s: float = 3600.0
    """Seconds of undecoded audio that each rank of a streamed run holds, to batch utterances of similar duration."""
    augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    """Augmentation of the waveforms; none by default. ``min_s`` applies before, ``max_s`` after a change of speed."""

    def __post_init__(self) -> None:
        check_channel(self.channel)
        if not 0.0 < self.longest_share <= 1.0:
            raise ValueError(f"data.longest_share={self.longest_share} is a share of the hours: above 0, at most 1")
        if self.stream and self.temperature != 1.0:
            raise ValueError("data.temperature needs the hours of each corpus, unknown to data.stream; set weights")
        check_join(self.join_s, self.max_s)
        for name, on in (("join_s", self.join_s > 0.0), ("longest_share", self.longest_share < 1.0)):
            if self.stream and on:
                raise ValueError(f"data.{name} looks at all utterances first, which data.stream cannot")


def check_join(join_s: float, max_s: float) -> None:
    """Raise ValueError where ``data.join_s`` is below 0 or above ``data.max_s``."""
    if not 0.0 <= join_s <= max_s:
        raise ValueError(f"data.join_s={join_s} must be in [0, data.max_s={max_s}]; 0 joins nothing")
