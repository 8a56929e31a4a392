"""Discrete targets that are not learned with the encoder: frames to units, by k-means or by random projections.

Frames are MFCCs (HuBERT's first iteration, arXiv 2106.07447), whitened log-mel, or a layer of another model; random
projections of log-mel are BEST-RQ's (arXiv 2202.01855). Everything is aligned with the frames of the encoder that
predicts the units, alone and in a padded batch alike.

Symbols: B batch, S samples, T frames, M mel bins, F numbers of a frame, P numbers after projection, G codebooks,
V units of a codebook, N frames of a sample.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchaudio.functional import compute_deltas, create_dct

from mixvec.errors import UserError
from mixvec.model.mel import HOP_SAMPLES, MelTables, log_mel, standardise
from mixvec.model.padding import padding_mask, zero_padding

if TYPE_CHECKING:
    from mixvec.data.batches import Loaded

MEL_BINS, CEPSTRA = 80, 13
WHITENED = 64  # principal components of stacked log-mel frames that are kept
PROJECTED = 16  # P of BEST-RQ's random projections
ITERATIONS = 20
FRAMES_PER_UNIT, MIN_FRAMES = 400, 40_000  # that k-means is fitted on: so many per unit, and at least the second


class Codebooks(nn.Module):
    """Assigns each frame the nearest of V centroids in each of G codebooks, after a linear projection.

    The projection and the centroids are buffers, so that a checkpoint holds them and a resumed run never fits again.
    """

    mean: Tensor
    projection: Tensor | None

    def __init__(
        self, width: int, units: tuple[int, ...], projected: int | None = None, *, cosine: bool = False
    ) -> None:
        """``width`` is F, ``units`` V of each codebook and ``projected`` P (None compares frames as they are).

        With ``cosine``, vectors are compared at length 1.
        """
        super().__init__()
        self.units, self.cosine = units, cosine
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, projected) if projected else None)
        for book, count in enumerate(units):
            self.register_buffer(f"centroids_{book}", torch.zeros(count, projected or width))

    def centroids(self) -> list[Tensor]:
        """(V, P) of each codebook."""
        return [self.get_buffer(f"centroids_{book}") for book in range(len(self.units))]

    def project(self, frames: Tensor) -> Tensor:
        """Frames (N, F) to (N, P)."""
        x = frames - self.mean
        x = x if self.projection is None else x @ self.projection
        return nn.functional.normalize(x, dim=-1) if self.cosine else x

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, F) to units (B, T, G): argmin over v of |x - c_v|², in fp32."""
        x = self.project(frames.flatten(0, 1))
        books = [
            (own.square().sum(1) - 2 * x @ own.T).argmin(1) for own in self.centroids()
        ]  # |x|² is the same for all
        return torch.stack(books, dim=1).view(*frames.shape[:2], len(books))

    def randomise(self, seed: int) -> None:
        """Draw projection and centroids (BEST-RQ: uniform within Xavier's bound, and normal at length 1)."""
        assert self.projection is not None
        generator = torch.Generator().manual_seed(seed)
        bound = math.sqrt(6 / sum(self.projection.shape))
        self.projection.copy_((2 * torch.rand(self.projection.shape, generator=generator) - 1) * bound)
        for own in self.centroids():
            own.copy_(nn.functional.normalize(torch.randn(own.shape, generator=generator), dim=-1))

    def fit(self, frames: Tensor, seed: int) -> list[float]:
        """Fit a whitening projection, if there is one, and the centroids to frames (N, F); each codebook's perplexity.

        Raises:
            UserError: there are more units than frames, or the frames are all alike.
        """
        from sklearn.cluster import KMeans

        frames = frames.to(self.mean.device)
        if len(frames) < 2 * max(self.units):
            raise UserError(f"objective.units={list(self.units)} are too many for the {len(frames)} frames of the "
                            "sample: raise objective.sample_s, add audio, or lower objective.units")  # fmt: skip
        if self.projection is not None:  # principal components of unit variance
            mean = frames.double().mean(0)
            x = frames.double() - mean
            values, vectors = torch.linalg.eigh(x.T @ x / len(x))  # ascending
            kept = self.projection.shape[1]
            self.mean.copy_(mean)
            self.projection.copy_(vectors[:, -kept:] * values[-kept:].clamp(min=1e-6).rsqrt())
        x = self.project(frames)
        if not float(x.var(0).sum()) > 1e-9:
            raise UserError("objective.targets: all frames of the sample are alike; is data.train silent?")
        perplexities = []
        for book, own in enumerate(self.centroids()):
            means = KMeans(len(own), n_init=1, max_iter=ITERATIONS, tol=0, random_state=seed + book)
            found = means.fit(x.cpu().numpy())
            own.copy_(torch.from_numpy(found.cluster_centers_))
            shares = torch.bincount(torch.from_numpy(found.labels_).long(), minlength=len(own)) / len(x)
            perplexities.append(float(torch.special.entr(shares).sum().exp()))
        return perplexities


@torch.no_grad()
def collect(
    sample: Iterator[Loaded[Any]], frames_of: Callable[[Tensor, Tensor], Tensor], encoder: Any, units: tuple[int, ...]
) -> Tensor:
    """The frames (N, F) of a sample's micro-batches, evenly thinned to as many as k-means needs.

    ``frames_of`` gives frames (B, T, F) of waveforms (B, S) and lengths (B,) on the encoder's device.
    """
    found, device = [torch.zeros(0, 1)], next(encoder.parameters()).device
    for loaded in sample:
        if loaded.sources:
            waveforms, lengths = loaded.batch.waveforms.to(device), loaded.batch.lengths.to(device)
            frames = frames_of(waveforms, lengths)
            found.append(frames[padding_mask(encoder.frame_lengths(lengths), frames.shape[1])].float().cpu())
    frames = torch.cat(found[1:] or found)
    every = max(1.0, len(frames) / max(MIN_FRAMES, FRAMES_PER_UNIT * max(units)))
    return frames[(torch.arange(int(len(frames) / every)) * every).long()]


class TargetFrames:
    """The frames (B, T, F) that units are made of, aligned with an encoder's. No part of the state."""

    def __init__(self, encoder: Any, kind: str, teacher: Any = None, layer: int = 0) -> None:
        """``kind`` is that of ``UnitsConfig.targets``; for ``layer``, that layer of ``teacher``, an encoder."""
        self.kind, self.layer, self.encoder, self.teacher = kind, layer, encoder, teacher
        self.tables = MelTables(MEL_BINS)
        if kind in ("mfcc", "layer"):
            self.width = 3 * CEPSTRA if kind == "mfcc" else teacher.dim
        else:
            self.width = encoder.target_tables().on(torch.device("cpu"))[0].shape[1] * encoder.mel_view[2]

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms (B, S) and lengths (B,) in samples to frames (B, T, F) in fp32."""
        with torch.autocast(waveforms.device.type, enabled=False):
            if self.kind == "mfcc":
                return self._mfcc(waveforms, lengths)
            if self.kind == "layer":
                return self._teachers(waveforms, lengths)
            return self.encoder.target_features(waveforms, lengths)  # type: ignore[no-any-return]

    def _mfcc(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """13 cepstra with first and second differences over ±2 frames, each at zero mean and unit variance over the
        utterance; of the 10 ms frames that the encoder's frame t sees, the one in the middle."""
        mel = log_mel(waveforms, lengths, self.tables)  # (B, 100 frames/s, M)
        count = lengths // HOP_SAMPLES + 1
        cepstra = hold_last(mel @ create_dct(CEPSTRA, MEL_BINS, "ortho").to(mel.device), count)
        first = hold_last(compute_deltas(cepstra.mT).mT, count)
        x = torch.cat([cepstra, first, compute_deltas(first.mT).mT], dim=-1)  # (B, 100 frames/s, 39)
        x = standardise(x, padding_mask(count, x.shape[1]))
        offset, hop, span = self.encoder.mel_view
        frames = self.encoder.frame_lengths(waveforms.shape[1])
        middle = offset + span // 2 + hop * torch.arange(frames, device=x.device)
        valid = padding_mask(self.encoder.frame_lengths(lengths), frames)
        return zero_padding(x[:, middle.clamp(max=x.shape[1] - 1)], valid)

    def _teachers(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """The teacher's frames that are nearest in time, by the middles of what frames see in 10 ms frames."""
        output = self.teacher.to(waveforms.device)(waveforms, lengths)
        (first, hop, span), (start, step, width) = self.encoder.mel_view, self.teacher.mel_view
        frames = torch.arange(self.encoder.frame_lengths(waveforms.shape[1]), device=waveforms.device)
        nearest = ((first + hop * frames + (span - width) / 2 - start) / step).round().long()
        last = (output.lengths - 1).clamp(min=0).unsqueeze(1)  # (B, 1)
        index = torch.minimum(nearest.clamp(min=0), last)  # (B, T)
        own: Tensor = output.layers[self.layer].float()
        return own.gather(1, index.unsqueeze(-1).expand(-1, -1, own.shape[-1]))


class OwnUnits(nn.Module):
    """Units that the encoder itself makes, part-way through a run, as in HuBERT's later iterations (section II-D).

    They are those of a frozen copy of its lower layers; ``head`` predicts them. All of it is a part of the state from
    the start, so that a checkpoint before a relabelling fits one after it.
    """

    def __init__(self, encoder: Any, layer: int | None, count: int) -> None:
        """``count`` units of a layer, counted from 1 (None: the middle one); a UserError where there is no such."""
        super().__init__()
        if not hasattr(encoder, "layers"):
            raise UserError("objective.relabel needs encoder.kind=mixvec")
        self.layer = math.ceil(encoder.num_layers / 2) if layer is None else layer
        if not 1 <= self.layer <= encoder.num_layers:
            raise UserError(f"objective.relabel_layer={layer}: the encoder has layers 1 to {encoder.num_layers}")
        self.teacher = copy.deepcopy(encoder)
        self.teacher.layers = self.teacher.layers[: self.layer]
        self.teacher.num_layers = self.layer
        self.teacher.requires_grad_(False).eval()
        self.codebooks = Codebooks(encoder.dim, (count,))
        self.head = nn.Linear(encoder.dim, count)

    def train(self, mode: bool = True) -> OwnUnits:
        """Set the mode of all but the teacher, which never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def frames(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms (B, S) and lengths (B,) to the frames (B, T, D) that units are made of."""
        return self.teacher(waveforms, lengths, every_layer=False).frames.float()  # type: ignore[no-any-return]

    def fit(self, encoder: Any, sample: Iterator[Any], seed: int) -> tuple[bool, str]:
        """Fit units on the frames of the encoder as it is now; a line, and whether they are accepted, or else nothing
        changed since they are degenerate."""
        before, now = copy.deepcopy(self.state_dict()), encoder.state_dict()
        self.teacher.load_state_dict({name: now[name] for name in self.teacher.state_dict()})
        (count,), where = self.codebooks.units, f"layer {self.layer} of {encoder.num_layers}"
        frames = collect(sample, self.frames, encoder, self.codebooks.units)
        try:
            (perplexity,) = self.codebooks.fit(frames, seed)
            if perplexity < count / 2:
                raise UserError(f"the new units are degenerate, with a perplexity of {perplexity:.1f} of {count}")
        except UserError as error:  # no reason to end a run
            self.load_state_dict(before)
            return False, f"relabel: refused, on {where}: {error}; the old units stay"
        generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(encoder.dim)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
        return True, (f"relabel: {count} new units by k-means on {len(frames)} frames of {where}; perplexity "
                      f"{perplexity:.1f}")  # fmt: skip


def load_teacher(encoder: Any, name: str, layer: int | None) -> tuple[Any, int, str]:
    """The model that ``objective.teacher`` names, the number of its layer (by default two thirds up), and a checksum.

    Raises:
        UserError: there is no such model or layer, or it has fewer frames a second than the encoder.
    """
    from mixvec.folder import sha256
    from mixvec.hub import load_encoder
    from mixvec.locate import resolve

    teacher = load_encoder(name).requires_grad_(False).eval()
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


def hold_last(x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, T, F) whose padding repeats the last frame, so that differences there do not see the padding."""
    index = torch.minimum(torch.arange(x.shape[1], device=x.device), (lengths - 1).unsqueeze(1))  # (B, T)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
