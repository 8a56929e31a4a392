"""Discrete targets that are not learned with the encoder: frames to units, by k-means or by random projections.

Frames are MFCCs (HuBERT's first iteration, arXiv 2106.07447), whitened log-mel, or a layer of another model; random
projections of log-mel are BEST-RQ's (arXiv 2202.01855). Everything is aligned with the frames of the encoder that
predicts the units, alone and in a padded batch alike.

Symbols: B batch, S samples, T frames, M mel bins, F numbers of a frame, P numbers after projection, G codebooks,
V units of a codebook, N frames of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchaudio.functional import compute_deltas, create_dct

from mixvec.errors import UserError
from mixvec.model.mel import HOP_SAMPLES, MelTables, log_mel
from mixvec.model.padding import padding_mask, zero_padding

if TYPE_CHECKING:
    from mixvec.data.batches import Loaded

MEL_BINS = 80
CEPSTRA = 13
WHITENED = 64
"""Principal components of stacked log-mel frames that are kept."""
PROJECTED = 16
"""P of BEST-RQ's random projections."""
ITERATIONS = 20
FRAMES_PER_UNIT = 400
"""Frames that k-means is fitted on, per unit; at least ``MIN_FRAMES``."""
MIN_FRAMES = 40_000


class Codebooks(nn.Module):
    """Assigns each frame the nearest of V centroids in each of G codebooks, after a linear projection.

    The projection and the centroids are buffers, so that a checkpoint holds them and a resumed run never fits again.
    """

    mean: Tensor
    projection: Tensor | None

    def __init__(
        self, width: int, units: tuple[int, ...], projected: int | None = None, *, cosine: bool = False
    ) -> None:
        """
        Args:
            width: F.
            units: V of each codebook.
            projected: P; None compares frames as they are.
            cosine: whether vectors are compared at length 1.
        """
        super().__init__()
        self.units, self.cosine = units, cosine
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, projected) if projected else None)
        for book, count in enumerate(units):
            self.register_buffer(f"centroids_{book}", torch.zeros(count, projected or width))

    def project(self, frames: Tensor) -> Tensor:
        """Frames (N, F) to (N, P)."""
        x = frames - self.mean
        x = x if self.projection is None else x @ self.projection
        return nn.functional.normalize(x, dim=-1) if self.cosine else x

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, F) to units (B, T, G): argmin over v of |x - c_v|², in fp32."""
        x = self.project(frames.flatten(0, 1))
        books = []
        for book in range(len(self.units)):
            centroids = self.get_buffer(f"centroids_{book}")
            books.append((centroids.square().sum(1) - 2 * x @ centroids.T).argmin(1))  # |x|² is the same for all
        return torch.stack(books, dim=1).view(*frames.shape[:2], len(books))

    def randomise(self, seed: int) -> None:
        """Draw projection and centroids (BEST-RQ: uniform within Xavier's bound, and normal at length 1)."""
        assert self.projection is not None
        generator = torch.Generator().manual_seed(seed)
        width, projected = self.projection.shape
        bound = math.sqrt(6 / (width + projected))
        self.projection.copy_((2 * torch.rand(width, projected, generator=generator) - 1) * bound)
        for book, count in enumerate(self.units):
            drawn = torch.randn(count, projected, generator=generator)
            self.get_buffer(f"centroids_{book}").copy_(nn.functional.normalize(drawn, dim=-1))

    def fit(self, frames: Tensor, seed: int) -> list[float]:
        """Fit a whitening projection, if there is one, and the centroids to frames (N, F).

        Returns:
            the perplexity of each codebook's units on these frames.

        Raises:
            UserError: there are more units than frames, or the frames are all alike.
        """
        from sklearn.cluster import KMeans

        if len(frames) < 2 * max(self.units):
            raise UserError(f"objective.units={list(self.units)} are too many for the {len(frames)} frames of the "
                            "sample: raise objective.sample_s, add audio, or lower objective.units")  # fmt: skip
        if self.projection is not None:
            self._whiten(frames, self.projection)
        x = self.project(frames)
        if not float(x.var(0).sum()) > 1e-9:
            raise UserError("objective.targets: all frames of the sample are alike; is data.train silent?")
        perplexities = []
        for book, count in enumerate(self.units):
            means = KMeans(count, init="k-means++", n_init=1, max_iter=ITERATIONS, tol=0, random_state=seed + book)
            found = means.fit(x.cpu().numpy())
            self.get_buffer(f"centroids_{book}").copy_(torch.from_numpy(found.cluster_centers_))
            shares = torch.bincount(torch.from_numpy(found.labels_).long(), minlength=count) / len(x)
            perplexities.append(float(torch.special.entr(shares).sum().exp()))
        return perplexities

    def _whiten(self, frames: Tensor, projection: Tensor) -> None:
        """Principal components of unit variance."""
        x = frames.double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))  # ascending
        kept = projection.shape[1]
        scaled = vectors[:, -kept:] * values[-kept:].clamp(min=1e-6).rsqrt()
        self.mean.copy_(mean)
        projection.copy_(scaled)


@torch.no_grad()
def collect(
    sample: Iterator[Loaded[Any]],
    frames_of: Callable[[Tensor, Tensor], Tensor],
    encoder: Any,
    units: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """The frames (N, F) of a sample's micro-batches, evenly thinned to as many as k-means needs.

    Args:
        frames_of: from waveforms (B, S) and lengths (B,) on ``device`` to frames (B, T, F).
    """
    found = []
    for loaded in sample:
        if loaded.sources:
            waveforms, lengths = loaded.batch.waveforms.to(device), loaded.batch.lengths.to(device)
            frames = frames_of(waveforms, lengths)
            found.append(frames[padding_mask(encoder.frame_lengths(lengths), frames.shape[1])].float().cpu())
    frames = torch.cat(found) if found else torch.zeros(0, 1)
    every = max(1.0, len(frames) / max(MIN_FRAMES, FRAMES_PER_UNIT * max(units)))
    return frames[(torch.arange(int(len(frames) / every)) * every).long()]


class TargetFrames(nn.Module):
    """The frames (B, T, F) that units are made of, aligned with an encoder's."""

    def __init__(self, encoder: Any, kind: str, teacher: Any = None, layer: int = 0) -> None:
        """
        Args:
            kind: mfcc, log-mel, random-projection or layer.
            teacher: for ``layer``: an encoder, which stays as it is and is no part of the state.
            layer: of the teacher, counted from its input embedding, 0.
        """
        super().__init__()
        self.kind, self.layer = kind, layer
        self._encoder, self._teacher, self._tables = [encoder], [teacher], MelTables(MEL_BINS)  # lists hide modules
        if kind == "mfcc":
            self.width = 3 * CEPSTRA
        elif kind == "layer":
            self.width = teacher.dim
        else:
            tables = encoder.target_tables()
            self.width = tables.on(torch.device("cpu"))[0].shape[1] * encoder.mel_view[2]

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms (B, S) and lengths (B,) in samples to frames (B, T, F) in fp32."""
        with torch.autocast(waveforms.device.type, enabled=False):
            if self.kind == "mfcc":
                return self._mfcc(waveforms, lengths)
            if self.kind == "layer":
                return self._teachers(waveforms, lengths)
            return self._encoder[0].target_features(waveforms, lengths)  # type: ignore[no-any-return]

    def _mfcc(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """13 cepstra with first and second differences over ±2 frames, each at zero mean and unit variance over the
        utterance; of the 10 ms frames that the encoder's frame t sees, the one in the middle."""
        encoder = self._encoder[0]
        mel = log_mel(waveforms, lengths, self._tables)  # (B, 100 frames/s, M)
        count = lengths // HOP_SAMPLES + 1
        cepstra = hold_last(mel @ create_dct(CEPSTRA, MEL_BINS, "ortho").to(mel.device), count)
        first = hold_last(compute_deltas(cepstra.mT).mT, count)
        x = torch.cat([cepstra, first, compute_deltas(first.mT).mT], dim=-1)  # (B, 100 frames/s, 39)
        mask = padding_mask(count, x.shape[1])
        total = count.view(-1, 1, 1)
        mean = zero_padding(x, mask).sum(1, keepdim=True) / total
        variance = zero_padding((x - mean).square(), mask).sum(1, keepdim=True) / total
        x = (x - mean) * torch.rsqrt(variance + 1e-5)
        offset, hop, span = encoder.mel_view
        frames = encoder.frame_lengths(waveforms.shape[1])
        middle = offset + span // 2 + hop * torch.arange(frames, device=x.device)
        return zero_padding(
            x[:, middle.clamp(max=x.shape[1] - 1)], padding_mask(encoder.frame_lengths(lengths), frames)
        )

    def _teachers(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """The teacher's frames that are nearest in time."""
        encoder, teacher = self._encoder[0], self._teacher[0].to(waveforms.device)
        output = teacher(waveforms, lengths)
        frames = encoder.frame_lengths(waveforms.shape[1])
        centre = centres(encoder, torch.arange(frames, device=waveforms.device))
        hop = centres(teacher, torch.ones((), device=waveforms.device)) - centres(teacher, torch.zeros(()))
        nearest = ((centre - centres(teacher, torch.zeros((), device=waveforms.device))) / hop).round().long()
        last = (output.lengths - 1).clamp(min=0).unsqueeze(1)  # (B, 1)
        index = torch.minimum(nearest.clamp(min=0), last)  # (B, T)
        own: Tensor = output.layers[self.layer].float()
        return own.gather(1, index.unsqueeze(-1).expand(-1, -1, own.shape[-1]))


def load_teacher(encoder: Any, name: str, layer: int | None) -> tuple[Any, int, str]:
    """The model that ``objective.teacher`` names, the number of its layer (by default two thirds up), and a checksum.

    Raises:
        UserError: there is no such model or layer, or it has fewer frames a second than the encoder.
    """
    from mixvec.folder import sha256
    from mixvec.hub import open_encoder
    from mixvec.locate import resolve

    teacher = open_encoder(name).requires_grad_(False).eval()
    chosen = math.ceil(2 * teacher.num_layers / 3) if layer is None else layer
    if not 0 <= chosen <= teacher.num_layers:
        raise UserError(f"objective.layer={layer}: {name} has layers 0 (its input) to {teacher.num_layers}")
    if teacher.sample_rate_hz != encoder.sample_rate_hz:
        raise UserError(f"objective.teacher={name} takes audio at {teacher.sample_rate_hz} Hz, the encoder at "
                        f"{encoder.sample_rate_hz} Hz")  # fmt: skip
    if teacher.hop_samples > encoder.hop_samples:
        own, theirs = (round(one.sample_rate_hz / one.hop_samples, 1) for one in (encoder, teacher))
        raise UserError(f"objective.teacher={name} has {theirs:g} frames a second, fewer than the encoder's {own:g}: "
                        "choose another teacher, or larger encoder.conv_strides")  # fmt: skip
    return teacher, chosen, sha256(*sorted(resolve(name).glob("*.safetensors")))


def centres(encoder: Any, frames: Tensor) -> Tensor:
    """The middle of frames (T,) in units of 10 ms."""
    first, hop, span = encoder.mel_view
    middle: Tensor = first + hop * frames + (span - 1) / 2
    return middle


def hold_last(x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, T, F) whose padding repeats the last frame, so that differences there do not see the padding."""
    index = torch.minimum(torch.arange(x.shape[1], device=x.device), (lengths - 1).unsqueeze(1))  # (B, T)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
