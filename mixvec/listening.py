"""Recognising speech while it is spoken: streams in chunks, many at once, partial and final results, ends by silence.

Symbols: B streams, S samples, T frames, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import UserError
from .model.context import Context
from .model.ctc import CtcRecognizer
from .model.encoder import SpeechEncoder
from .model.frontend import UNMEASURED_GAIN
from .model.trunks import FRAMEWISE
from .transcript import Transcript, Word

KEEP_S = 0.2
"""Audio before an end of speech that the next result begins with, as the next word may already have begun."""
LONG_S, BRIEF_S, LONGEST_S = 20.0, 0.4, 60.0
"""A result over 20 s ends at a pause of 0.4 s; none is over 60 s, give or take a chunk."""
MEASURE_S = 5.0
"""Audio on which ``--force`` measures the constants of ``encoder.normalise=fixed``."""


@dataclass(frozen=True)
class ListenConfig:
    """How streams are recognised; raises ``UserError`` for a number that cannot be."""

    chunk_ms: int = 640
    """Audio that is encoded at a time. A frame sees its own chunk, so that shorter ones answer sooner and err more."""
    left_chunks: int | None = None
    """Chunks before it that a frame sees; None: all since the last pause."""
    beam: int | None = None
    """Hypotheses of prefix beam search; None: greedy."""
    silence_s: float = 0.8
    """Silence that ends a result."""

    def __post_init__(self) -> None:
        if self.left_chunks is not None and self.left_chunks < 0:
            raise UserError(f"--left-chunks {self.left_chunks} must be at least 0")
        if self.beam is not None and self.beam < 1:
            raise UserError(f"--beam {self.beam} must be at least 1")
        if self.silence_s < BRIEF_S:
            raise UserError(f"--silence-s {self.silence_s:g} must be at least {BRIEF_S:g}")


class Result(NamedTuple):
    """What was said between two pauses."""

    text: str
    final: bool
    """False: there is more to come, and the last words may change."""
    start_s: float
    end_s: float
    words: list[Word]

    def plain(self) -> dict[str, Any]:
        """Plain JSON values: text, final, start_s, end_s, words."""
        return self._asdict() | {"words": [word._asdict() for word in self.words]}


class Session:
    """One stream: its samples, its encoder state, its results. ``Listener.advance`` computes it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.state: dict[str, Tensor] | None = None
        self.closed = self.done = False
        self._waiting, self._recent = torch.zeros(0), torch.zeros(0)
        self._origin = self._taken = 0  # the first sample of this result's frames, and of those that wait
        self._transcript, self._text = Transcript(listener.model.vocabulary, listener.config.beam), ""

    def feed(self, samples: Tensor) -> None:
        """Add samples (S,) in ±1, of any number."""
        self._waiting = torch.cat([self._waiting, samples])

    def close(self) -> None:
        """End the stream: what waits is recognised, and the last result is final."""
        self.closed = True

    @property
    def needed(self) -> int:
        """Samples of the next chunk; the first frames wait for what the front end sees ahead."""
        listener = self.listener
        return listener.chunk_samples + (listener.look_ahead_samples if self.state is None else 0)

    @property
    def ready(self) -> bool:
        """Whether there is something to compute."""
        return not self.done and (self.closed or len(self._waiting) >= self.needed)

    def take(self) -> Tensor:
        """The samples of the next chunk; at the end of the stream all that are left."""
        count = min(self.needed, len(self._waiting))
        self.done = count < self.needed
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        kept = self.listener.keep_samples + self.listener.look_ahead_samples
        self._recent = torch.cat([self._recent, taken])[-kept:]
        self._taken += count
        return taken

    def receive(self, state: dict[str, Tensor], log_probs: Tensor) -> list[Result]:
        """Take the output for a chunk, log-probabilities (T, V), and return what is new: none, one, or a final one."""
        self.state = state
        transcript = self._transcript
        transcript.extend(log_probs)
        frame_s = self.listener.frame_s
        length_s, pause_s = len(transcript.path) * frame_s, transcript.blanks * frame_s
        enough_s = self.listener.config.silence_s if length_s < LONG_S else BRIEF_S
        final = self.done or pause_s >= enough_s or length_s >= LONGEST_S
        if final:
            transcript.finish()
        result, before = self._result(final), self._text
        self._text = result.text
        if final and not self.done:
            self._restart(pause_s >= BRIEF_S)
        return [result] if result.text and (final or result.text != before) else []

    def _result(self, final: bool) -> Result:
        start_s = self._origin / self.listener.rate_hz
        words = self._transcript.words(start_s, self.listener.frame_s)
        ends = (words[0].start_s, words[-1].end_s) if words else (start_s, start_s)
        return Result(" ".join(word.word for word in words), final, *ends, words)

    def _restart(self, keep: bool) -> None:
        """Begin the next result with a new encoder state, so that positions and means never run away."""
        again = self.listener.look_ahead_samples + (self.listener.keep_samples if keep else 0)
        self._waiting = torch.cat([self._recent[len(self._recent) - again :], self._waiting])
        self._taken -= again
        self._origin, self._recent = self._taken, self._recent[:0]
        self._transcript, self._text = Transcript(self.listener.model.vocabulary, self.listener.config.beam), ""
        self.state = None


class Listener:
    """A recogniser on a device, and how it listens."""

    def __init__(self, model: CtcRecognizer, config: ListenConfig, device: torch.device) -> None:
        """
        Raises:
            UserError: a chunk shorter than what the front end sees ahead, or flashlight-text is not installed.
        """
        encoder = model.encoder
        assert isinstance(encoder, SpeechEncoder)
        self.model, self.encoder, self.config, self.device = model.to(device).eval(), encoder, config, device
        self.rate_hz, hop = encoder.sample_rate_hz, encoder.hop_samples
        self.frame_s, self.look_ahead_samples = hop / self.rate_hz, encoder.front_end.look_ahead_samples
        frames = config.chunk_ms * self.rate_hz // 1000 // hop
        if frames * hop < max(hop, self.look_ahead_samples):
            least = -(-max(hop, self.look_ahead_samples) // hop) * hop * 1000 / self.rate_hz
            ahead_ms = self.look_ahead_samples * 1000 / self.rate_hz
            raise UserError(f"--chunk-ms {config.chunk_ms} is shorter than a frame ({1000 * self.frame_s:g} ms) or the "
                            f"front end's look-ahead ({ahead_ms:g} ms); use at least {least:g}")  # fmt: skip
        self.context = Context(frames, config.left_chunks)
        self.chunk_samples = frames * hop
        self.keep_samples = min(round(KEEP_S * self.rate_hz), self.chunk_samples)
        Transcript(model.vocabulary, config.beam)  # now, as it may lack flashlight-text

    @property
    def measured(self) -> bool:
        """Whether the encoder has the constants of ``encoder.normalise=fixed``; one from offline training has none."""
        return float(self.encoder.front_end.gain) != UNMEASURED_GAIN

    def measure(self, samples: Tensor) -> None:
        """Measure these constants on samples (S,).

        Raises:
            ValueError: they are silent.
        """
        lengths = torch.tensor([len(samples)], device=self.device)
        self.encoder.front_end.measure([(samples.unsqueeze(0).to(self.device), lengths)])

    @torch.inference_mode()
    def advance(self, sessions: list[Session]) -> list[list[Result]]:
        """One chunk of each session that is ``ready``: those with states of equal shapes are one batch."""
        taken = [session.take() for session in sessions]
        groups: dict[Any, list[int]] = {}
        for number, session in enumerate(sessions):
            shapes = tuple((name, value.shape) for name, value in sorted((session.state or {}).items()))
            groups.setdefault(number if session.done else (len(taken[number]), shapes), []).append(number)
        results: list[list[Result]] = [[] for _ in sessions]
        for group in groups.values():
            states = [session.state for session in (sessions[number] for number in group) if session.state is not None]
            encoded, after = self.encoder.stream(
                torch.stack([taken[number] for number in group]).to(self.device),
                {name: torch.cat([state[name] for state in states]) for name in states[0]} if states else None,
                self.context,
                final=sessions[group[0]].done,
                every_layer=self.model.every_layer,
            )
            log_probs = self.model.head(encoded).cpu()  # (B, T, V)
            for row, number in enumerate(group):
                own = {name: value[row : row + 1].clone() for name, value in after.items()}
                results[number] = sessions[number].receive(own, log_probs[row])
        return results

    def listen(self, blocks: Iterable[Tensor]) -> Iterator[Result]:
        """The results of one stream, as its blocks of samples (S,) come."""
        session = Session(self)
        for block in chain(blocks, [None]):
            if block is None:
                session.close()
            else:
                session.feed(block)
            while session.ready:
                yield from self.advance([session])[0]


def streaming_model(model: Any, name: str | Path, force: bool) -> CtcRecognizer:
    """The recogniser, if it can stream.

    Raises:
        UserError: it cannot; or it was not trained for chunks, and ``force`` is False.
    """
    if not isinstance(model, CtcRecognizer):
        raise UserError(f"{name}: a {type(model).__name__}; a stream needs a recogniser: `python -m finetune "
                        "configs/asr.yaml streaming=true`")  # fmt: skip
    encoder = model.encoder
    if not isinstance(encoder, SpeechEncoder) or model.kind not in FRAMEWISE:
        what = "its head sees whole utterances" if isinstance(encoder, SpeechEncoder) else type(encoder).__name__
        raise UserError(f"{name}: cannot stream ({what}); only mixvec's own encoder in a model folder can")
    if not encoder.config.streaming and not force:
        raise UserError(f"{name}: was trained on whole utterances and would make many more errors in chunks; train one "
                        f"for both with `python -m finetune CONFIG pretrained={name} streaming=true` "
                        "(docs/streaming.md), or try it with --force")  # fmt: skip
    if encoder.config.normalise != "fixed":
        model.encoder = SpeechEncoder(replace(encoder.config, normalise="fixed"))
        model.encoder.load_state_dict({**model.encoder.state_dict(), **encoder.state_dict()})
    return model.eval()
