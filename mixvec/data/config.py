"""Which audio a run reads and what is done to it, as data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GateConfig:
    """What is silence in recordings longer than ``data.max_s``."""

    below_db: float | None = None
    """So many dB below the recording's loud level (95 % of its frames are quieter); 35 suits clean speech, noisier
    recordings need less. null: nothing is, and all of a recording is used."""
    silence_s: float = 0.5
    """Silences at least this long are skipped."""
    pad_s: float = 0.1
    """Kept of a silence on each side of speech."""


@dataclass(frozen=True)
class WaveformAugmentConfig:
    """What is done to the waveforms of ``data.train``, in this order; each is off until its own key turns it on."""

    speed: tuple[float, ...] = ()
    """Factors, in hundredths, one drawn for each utterance and epoch, such as [0.9,1.0,1.1]; tempo and pitch change."""
    reverb: Any = None
    """Room impulse responses: a folder, or whatever else ``data.train`` may be. Their channels are averaged."""
    reverb_prob: float = 0.5
    mix_prob: float = 0.0
    """How often a stretch of another training utterance is laid over at most half of an utterance; 0.2 in WavLM."""
    mix_ratio_db: tuple[float, float] = (-5.0, 5.0)
    """Energy of the utterance over that of the other."""
    noise: Any = None
    """Noises: a folder, or whatever else ``data.train`` may be."""
    noise_prob: float = 0.5
    noise_snr_db: tuple[float, float] = (0.0, 15.0)
    """Energy of the clip over that of the noise."""

    def __post_init__(self) -> None:
        for factor in self.speed:
            if not 0.5 <= factor <= 2.0 or abs(factor - round(factor, 2)) > 1e-9:
                raise ValueError(f"data.augment.speed: {factor} must lie in [0.5, 2], in whole hundredths")
        for name in ("reverb_prob", "mix_prob", "noise_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"data.augment.{name}={getattr(self, name)} must lie in [0, 1]")
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


@dataclass(frozen=True)
class DataConfig:
    """Which audio, and how it is read."""

    train: Any = None
    """A folder at any depth, a manifest, tars, Parquet, a corpus as it unpacks, a hub name, a glob, or a list of these,
    {source: DIR, weight: 2} among them (``pretrain/sources.py`` has them all)."""
    temperature: float = 1.0
    """Sources in a list share an epoch as weight × hours^(1/temperature); 1 takes them as they are."""
    min_s: float = 1.0
    """Shorter utterances are skipped and counted."""
    max_s: float = 30.0
    """Longer ones are cut into stretches of even length, at most this, which cover all of them; or as ``gate`` says."""
    longest_share: float = 1.0
    """Only the longest utterances, after cutting, that make up this share of the hours (arXiv 2601.20896)."""
    gate: GateConfig = field(default_factory=GateConfig)
    """An energy gate for what is longer than ``max_s`` (``pretrain/gate.py``); off unless ``below_db`` is set."""
    workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""
    max_skipped: float = 1.0
    """The largest share of the utterances that may be skipped as unreadable, when they are found or when an epoch
    decodes them, before the run stops; 1 never stops."""
    stream: bool = False
    """Read as it lies, each rank its own shards, with nothing looked through first (``pretrain/stream.py``)."""
    buffer_s: float = 3600.0
    """What each rank of a streamed run holds, undecoded, to choose utterances of like duration from."""
    augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    """What is done to the waveforms; nothing by default. ``min_s`` is before, ``max_s`` after a change of speed."""
