"""Augmentation of training waveforms on the fly: speed, reverberation, utterance mixing, noise; all off by default.

Speed perturbation: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015. Reverberation by recorded
or simulated room impulse responses (RIR): Ko et al., "A study on data augmentation of reverberant speech for robust
speech recognition", ICASSP 2017. Noise at a drawn signal-to-noise ratio: Snyder et al., arXiv 1510.08484. Utterance
mixing: WavLM, arXiv 2110.13900, algorithm 1; its targets come from the clean utterance, ours, as in wav2vec 2.0, from
the input of the encoder.

All is drawn from the utterance's own generator except the speed, a pure function of (seed, epoch, utterance) that the
plan needs before anything is decoded. No peak is clipped: the front end normalises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import fftconvolve

from ..errors import named
from ..model.frontend import SAMPLE_RATE_HZ
from ..resample import resample
from .config import WaveformAugmentConfig
from .sources import Corpus, find_utterances
from .utterances import Utterance

RIR_MAX_S = 20.0
"""Longer impulse responses are cut: those of the largest real rooms are shorter."""
FFT_SAMPLES = 4096
"""Convolutions are as long as a multiple of this; a length with a large prime factor takes ten times as long."""


class Augmentation:
    """The augmentation of a run. Calling it augments one clip; ``speeds`` is for the plan."""

    def __init__(self, config: WaveformAugmentConfig, seed: int) -> None:
        """Find the noises and impulse responses. Raises ``UserError`` where a source does not exist, or holds no audio
        that can be read; the message names its key."""
        self.config, self.seed = config, seed
        self.rirs = _Sounds(config.reverb, "data.augment.reverb")
        self.noises = _Sounds(config.noise, "data.augment.noise")
        self.skipped = self.rirs.skipped + self.noises.skipped

    def speeds(self, where: tuple[int, ...], first: int, count: int) -> np.ndarray:
        """(count,) the speed factors of the utterances from the ``first`` on; further copies of one have the same.
        ``where`` is the epoch, in a stream also source and shard. The n-th utterance takes the n-th draw, to which the
        generator is advanced in constant time."""
        if not self.config.speed:
            return np.ones(count)
        draws = np.random.Generator(np.random.PCG64([self.seed, *where, 0, 3]).advance(first)).random(count)
        factors: np.ndarray = np.array(self.config.speed)[(draws * len(self.config.speed)).astype(np.int64)]
        return factors

    def __call__(
        self, waveform: Tensor, speed: float, utterances: Sequence[Utterance], own: int, rng: np.random.Generator
    ) -> Tensor:
        """A waveform (S,) augmented: (⌈S / speed⌉,), finite where it was. One of the ``utterances`` other than number
        ``own``, this one, may be mixed in; itself where it is alone. Raises ``UserError`` where that, a noise or an
        impulse response cannot be decoded."""
        config = self.config
        waveform = change_speed(waveform, speed)
        if self.rirs and rng.random() < config.reverb_prob:
            with named("data.augment.reverb: "):
                waveform = reverberate(waveform, self.rirs.draw(rng).read(0.0, RIR_MAX_S))
        if config.mix_prob and rng.random() < config.mix_prob:
            other = (own + 1 + int(rng.integers(max(1, len(utterances) - 1)))) % len(utterances)
            with named("data.augment.mix_prob: "):
                partner, _ = random_crop(utterances[other], len(waveform) / SAMPLE_RATE_HZ, rng)
            waveform = mix(waveform, partner, float(rng.uniform(*config.mix_ratio_db)), rng)
        if self.noises and rng.random() < config.noise_prob:
            with named("data.augment.noise: "):
                noise, _ = random_crop(self.noises.draw(rng), len(waveform) / SAMPLE_RATE_HZ, rng)
            waveform = add_noise(waveform, noise, float(rng.uniform(*config.noise_snr_db)))
        return waveform


class _Sounds:
    """Recordings to draw from, in proportion to the weights of their sources; none for None."""

    def __init__(self, source: Any, key: str) -> None:
        corpus = Corpus("") if source is None else find_utterances(source, key)
        self.utterances, self.skipped = corpus.utterances, corpus.skipped
        repeats = corpus.repeats(1.0)
        self.shares = np.cumsum(np.ones(len(corpus.utterances)) if repeats is None else repeats)

    def __len__(self) -> int:
        return len(self.utterances)

    def draw(self, rng: np.random.Generator) -> Utterance:
        return self.utterances[int(np.searchsorted(self.shares, rng.random() * self.shares[-1], side="right"))]


def random_crop(utterance: Utterance, most_s: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """An utterance as a waveform (S,), or a random crop of it of ``most_s``; and where in the utterance it starts.
    Raises ``UserError`` where it cannot be decoded."""
    spare_s = utterance.duration_s - most_s
    start_s = float(rng.uniform(0, spare_s)) if spare_s > 0 else 0.0
    return utterance.read(start_s, most_s), start_s


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """(S,) played ``factor`` times as fast, pitch and tempo: (⌈S / factor⌉,). Ko et al., 2015."""
    return resample(waveform, round(SAMPLE_RATE_HZ * factor))


def reverberate(waveform: Tensor, rir: Tensor) -> Tensor:
    """(S,) convolved with an impulse response (R,): as long, as loud, and not delayed. Ko et al., 2017. The response's
    peak is its direct path. Where either is silent, the waveform stays as it is."""
    samples = len(waveform)
    rir = torch.nn.functional.pad(rir, (0, -(samples + len(rir) - 1) % FFT_SAMPLES))
    direct = int(rir.abs().argmax())
    wet = fftconvolve(waveform, rir)[direct : direct + samples]  # (S,) of (S + R - 1,)
    scale = gain(waveform, wet, 0.0)
    return scale * wet if scale else waveform


def mix(waveform: Tensor, partner: Tensor, ratio_db: float, rng: np.random.Generator) -> Tensor:
    """(S,) with a segment of the partner (P,) over at most half of it (arXiv 2110.13900, algorithm 1). The energy of
    the whole waveform is ``ratio_db`` above that of the whole partner."""
    overlap = min(int(rng.integers(len(waveform) // 2 + 1)), len(partner))
    start, begin = (int(rng.integers(len(w) - overlap + 1)) for w in (waveform, partner))
    mixed = waveform.clone()
    mixed[start : start + overlap] += gain(waveform, partner, ratio_db) * partner[begin : begin + overlap]
    return mixed


def add_noise(waveform: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """(S,) plus the noise (N,), cut or repeated to its length, at a signal-to-noise ratio. Snyder et al., 2015. Where
    either is silent, the waveform stays as it is."""
    noise = noise.repeat(math.ceil(len(waveform) / len(noise)))[: len(waveform)]
    return waveform + gain(waveform, noise, snr_db) * noise


def gain(waveform: Tensor, other: Tensor, ratio_db: float) -> float:
    """The factor for ``other`` that makes the energy per sample of ``waveform`` ``ratio_db`` above its own. 0 where
    either is silent, or too loud for its energy to be a number."""
    scale = float((waveform.square().mean() / other.square().mean()).sqrt()) / 10 ** (ratio_db / 20)
    return scale if 0.0 < scale < math.inf else 0.0
