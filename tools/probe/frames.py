"""What frozen frames hold, layer by layer, without training anything on top but a linear layer.

    python -m tools.probe.frames runs/tiny runs/other --words shared/keywords/test --out runs/frames

phone        frame-wise accuracy of a linear classifier of phonemes, on synthesised speech of unheard voices, whose
             phonemes and their times are known
PNMI, purity of k-means units with the phonemes: I(phoneme; unit) / H(phoneme), and the share of frames whose unit's
             commonest phoneme is theirs (arXiv 2106.07447, section IV-D)
ABX          how often a spoken word is nearer to another word of its own speaker than to itself of another speaker, by
             dynamic time warping over angles; 50 % by chance
RankMe       exp of the entropy of the singular values of the frames (arXiv 2210.02885): dimensions in use

Log-mel features and an untrained encoder of the first model's shape are always in the table.

Symbols: N frames, T frames of a word, D width, L layers, V units.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixvec import build_encoder
from mixvec.atomic import write_whole
from mixvec.data.sources import find_utterances
from mixvec.errors import UserError, run_cli
from mixvec.hub import load_encoder
from mixvec.model.config import LOG_MEL, SIZES
from tools import command_parser
from tools.corpus import TEST_VOICES, TRAIN_VOICES
from tools.espeak import SAMPLE_RATE_HZ, Phone, synthesise
from tools.sentences import everyday

UNITS = 100
PENALTY = 1e-4
"""Of the squared weights of the linear classifier, beside the mean cross-entropy."""
MAX_FRAMES = 20_000
"""Frames that a classifier or k-means is fitted on, and that singular values are taken of."""


class Word(NamedTuple):
    """A spoken word."""

    waveform: Tensor
    """(S,)"""
    label: str
    speaker: str


def speech(seconds: float, voices: Sequence[str], seed: int) -> list[tuple[Tensor, list[Phone]]]:
    """Sentences of these voices, taking turns: waveforms (S,) with their phonemes."""
    rng, left_s = np.random.default_rng([seed, 9]), seconds
    spoken: list[tuple[Tensor, list[Phone]]] = []
    while left_s > 0:
        phones: list[Phone] = []
        waveform = synthesise(everyday(rng), voices[len(spoken) % len(voices)], phones=phones)
        spoken.append((torch.from_numpy(waveform), phones))
        left_s -= len(waveform) / SAMPLE_RATE_HZ
    return spoken


@torch.inference_mode()
def layers_of(encoder: Any, waveform: Tensor) -> list[Tensor]:
    """The L + 1 layers (T, D) of an utterance (S,)."""
    short = max(0, encoder.min_samples - len(waveform))
    padded = torch.nn.functional.pad(waveform, (0, short)).unsqueeze(0)
    return [layer[0].float() for layer in encoder(padded).layers]


def phones_at(phones: list[Phone], encoder: Any, frames: int) -> list[str | None]:
    """The phoneme in the middle of each frame; None in pauses and beyond the last."""
    first, hop, span = encoder.mel_view
    found: list[str | None] = []
    for frame in range(frames):
        at_s = (first + hop * frame + (span - 1) / 2) / 100
        name = next((phone.name for phone in phones if phone.start_s <= at_s < phone.end_s), None)
        found.append(None if name is None or name.startswith("_") else name)
    return found


def labelled_frames(
    encoder: Any, spoken: list[tuple[Tensor, list[Phone]]], names: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """Frames (L + 1, N, D) that lie in a phoneme, at most ``MAX_FRAMES``, evenly spaced; and its number (N,).

    Args:
        names: the phonemes' numbers; what is not in it gets the next number.
    """
    layers: list[list[Tensor]] = [[] for _ in range(encoder.num_layers + 1)]
    labels: list[int] = []
    for waveform, phones in spoken:
        found = layers_of(encoder, waveform)
        at = phones_at(phones, encoder, len(found[0]))
        kept = [frame for frame, name in enumerate(at) if name is not None]
        labels += [names.setdefault(str(at[frame]), len(names)) for frame in kept]
        for own, layer in zip(layers, found, strict=True):
            own.append(layer[kept])
    every = max(1, -(-len(labels) // MAX_FRAMES))
    return torch.stack([torch.cat(own)[::every] for own in layers]), torch.tensor(labels)[::every]


def linear_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy on test frames (N, D) of softmax regression fitted to train frames, which are standardised (L-BFGS)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (2 * PENALTY * len(train)), max_iter=100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred iterations for all alike
        model.fit(train.numpy(), train_labels.numpy())
    return float(model.score(test.numpy(), test_labels.numpy()))


def purity_and_pnmi(units: Tensor, labels: Tensor) -> tuple[float, float]:
    """How well units (N,) tell phonemes (N,): phone purity, and mutual information over the phonemes' entropy."""
    from scipy.stats import entropy
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    joint = contingency_matrix(labels.numpy(), units.numpy())  # (phonemes, units)
    mutual = float(mutual_info_score(None, None, contingency=joint))
    return float(joint.max(axis=0).sum() / joint.sum()), mutual / max(
        float(entropy(np.bincount(labels.numpy()))), 1e-12
    )


def rankme(frames: Tensor) -> float:
    """exp of the entropy of the normalised singular values of frames (N, D)."""
    values = torch.linalg.svdvals(frames.double())
    return float(torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp())


def abx_error(words: list[Tensor], labels: list[str], speakers: list[str]) -> float:
    """Across-speaker ABX over words (T, D): with A and X the same word of two speakers and B another word of A's, the
    share of triplets in which X is nearer to B than to A, ties counting half; averaged over pairs of words and of
    speakers first.

    Raises:
        UserError: no word is spoken by two speakers of whom one speaks another word too.
    """
    distance = dtw_distances(words)
    tokens: dict[tuple[str, str], list[int]] = {}
    for number, key in enumerate(zip(labels, speakers, strict=True)):
        tokens.setdefault(key, []).append(number)
    errors: dict[tuple[str, str], list[float]] = {}
    for (a, speaker), own in tokens.items():
        for (b, same), others in tokens.items():
            if b == a or same != speaker:
                continue
            for (x, other), third in tokens.items():
                if x == a and other != speaker:
                    near = distance[own][:, third].unsqueeze(1)  # (A, 1, X)
                    far = distance[others][:, third].unsqueeze(0)  # (1, B, X)
                    wrong = (near > far).double() + 0.5 * (near == far).double()
                    errors.setdefault((a, b), []).append(float(wrong.mean()))
    if not errors:
        raise UserError("--words: ABX needs words that at least two speakers say, and two words of one speaker")
    return float(np.mean([np.mean(own) for own in errors.values()]))


def dtw_distances(words: list[Tensor]) -> Tensor:
    """The mean angle (0 to 1) along the best alignment of each pair of words (T, D), as a symmetric matrix."""
    count, longest = len(words), max(map(len, words))
    padded = torch.zeros(count, longest, words[0].shape[1])
    for number, word in enumerate(words):
        padded[number, : len(word)] = torch.nn.functional.normalize(word, dim=1)
    lengths = torch.tensor([len(word) for word in words])
    result = torch.zeros(count, count)
    for first in range(count):
        others = torch.arange(first, count)
        own = lengths[first]
        cosine = torch.einsum("id,pjd->pij", padded[first, :own], padded[others])
        angle = torch.arccos(cosine.clamp(-1, 1)) / math.pi  # (P, T, T')
        result[first, others] = _best_paths(angle, lengths[others])
    return result.triu() + result.triu(1).T


def _best_paths(cost: Tensor, lengths: Tensor) -> Tensor:
    """The mean cost (P,) along the cheapest monotonic path through cost (P, T, T'), T' cut to ``lengths``.

    A step goes one frame on in either word or in both. All cells (i, j) of a diagonal i + j = d are reached from the
    two diagonals before it, so that each is one operation.
    """
    pairs, rows, columns = cost.shape
    row = torch.arange(rows)
    before, older = (torch.full((pairs, rows + 1), torch.inf) for _ in range(2))  # cell i is at i + 1
    before_steps, older_steps = torch.zeros(pairs, rows + 1), torch.zeros(pairs, rows + 1)
    result = torch.zeros(pairs)
    for diagonal in range(rows + columns - 1):
        column = diagonal - row
        sums = torch.stack([older[:, :-1], before[:, :-1], before[:, 1:]])  # both, the first word, the second
        best, which = sums.min(0)
        steps = torch.stack([older_steps[:, :-1], before_steps[:, :-1], before_steps[:, 1:]])
        steps = steps.gather(0, which.unsqueeze(0))[0] + 1
        if diagonal == 0:
            best[:, 0], steps[:, 0] = 0.0, 1.0
        inside = (column >= 0) & (column < columns)
        total = torch.where(inside, best + cost[:, row, column.clamp(0, columns - 1)], torch.inf)
        ends = lengths - 1 == diagonal - (rows - 1)
        result[ends] = total[ends, -1] / steps[ends, -1]
        older, older_steps = before, before_steps
        before = torch.nn.functional.pad(total, (1, 0), value=torch.inf)
        before_steps = torch.nn.functional.pad(steps, (1, 0))
    return result


def measure(encoder: Any, train: Any, test: Any, words: list[Word]) -> list[dict[str, float]]:
    """The scores of each layer of an encoder.

    Args:
        train, test: as ``speech`` gives them.
        words: for ABX; none leaves it out.
    """
    from sklearn.cluster import KMeans

    names: dict[str, int] = {}
    own, own_labels = labelled_frames(encoder, train, names)
    other, other_labels = labelled_frames(encoder, test, names)
    tokens = [layers_of(encoder, word.waveform) for word in words]
    rows = []
    for layer in range(encoder.num_layers + 1):
        kmeans = KMeans(UNITS, n_init=1, max_iter=20, random_state=0).fit(own[layer].numpy())
        units = torch.from_numpy(kmeans.predict(other[layer].numpy())).long()
        purity, pnmi = purity_and_pnmi(units, other_labels)
        row = {"phone": linear_accuracy(own[layer], own_labels, other[layer], other_labels), "pnmi": pnmi,
               "purity": purity, "rankme": rankme(other[layer])}  # fmt: skip
        if words:
            spoken = [found[layer] for found in tokens]
            row["abx"] = abx_error(spoken, [word.label for word in words], [word.speaker for word in words])
        rows.append(row)
    return rows


def find_words(source: str, most: int) -> list[Word]:
    """Labelled utterances with their speakers, at most ``most``, evenly taken."""
    corpus = find_utterances(source, "--words", labels=True)
    corpus.keep(lambda u: u.label is not None and u.speaker is not None, "{u.source}: no label or no speaker")
    if not corpus.utterances:
        raise UserError(f"--words {source}: rows need a label and a speaker")
    every = max(1, -(-len(corpus.utterances) // most))
    kept = [corpus.utterances[number] for number in range(0, len(corpus.utterances), every)]
    return [Word(u.read(), str(u.label), str(u.speaker)) for u in kept]


def markdown(results: dict[str, list[dict[str, float]]]) -> str:
    """A table with a row for each layer of each model; in per cent, but for RankMe."""
    lines = ["| model | layer | phone accuracy | PNMI | purity | ABX error | RankMe |", "|---|---|---|---|---|---|---|"]
    for name, rows in results.items():
        for layer, row in enumerate(rows):
            cells = [f"{100 * row[key]:.1f}" if key in row else "" for key in ("phone", "pnmi", "purity", "abx")]
            lines.append(f"| {name} | {layer} | {' | '.join(cells)} | {row['rankme']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = command_parser("probe.frames", __doc__)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="run directory, model folder or org/name")
    parser.add_argument("--words", metavar="DATA", help="words with a label and a speaker each, for ABX")
    parser.add_argument("--max-words", metavar="N", type=int, default=300, help="at most so many of them (300)")
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=600.0, help="of speech to fit on and to test on (600)"
    )
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("runs/frames"), help="runs/frames")
    args = parser.parse_args()
    encoders = {name: load_encoder(name) for name in args.models}
    shape = getattr(next(iter(encoders.values())), "config", SIZES["tiny"])
    torch.manual_seed(0)
    encoders |= {"random": build_encoder(shape).eval(), "log-mel": build_encoder(LOG_MEL).eval()}
    words = find_words(args.words, args.max_words) if args.words else []
    train, test = speech(args.seconds, TRAIN_VOICES, 0), speech(args.seconds, TEST_VOICES, 1)
    results: dict[str, list[dict[str, float]]] = {}
    for name, encoder in encoders.items():
        results[name] = measure(encoder, train, test, words)
        print(f"{name}: {max(row['phone'] for row in results[name]):.3f} phone accuracy in its best layer", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(args.out / "frames.json", json.dumps(results, indent=2) + "\n")
    write_whole(args.out / "frames.md", markdown(results))
    print("\n" + markdown(results))


if __name__ == "__main__":
    run_cli(main)
