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

import itertools
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
PAIRS = 500
"""Pairs of words that are compared at a time."""
Word = tuple[Tensor, str, str]
"""A spoken word: its waveform (S,), label and speaker."""


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
    times_s = [(first + hop * frame + (span - 1) / 2) / 100 for frame in range(frames)]
    spoken = [phone for phone in phones if not phone.name.startswith("_")]
    return [next((phone.name for phone in spoken if phone.start_s <= at_s < phone.end_s), None) for at_s in times_s]


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
    mutual = mutual_info_score(None, None, contingency=joint)
    return float(joint.max(axis=0).sum() / joint.sum()), float(mutual / max(entropy(joint.sum(axis=1)), 1e-12))


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
        for b, others in ((b, others) for (b, same), others in tokens.items() if b != a and same == speaker):
            for third in (third for (x, other), third in tokens.items() if x == a and other != speaker):
                near = distance[own][:, third].unsqueeze(1)  # (A, 1, X)
                far = distance[others][:, third].unsqueeze(0)  # (1, B, X)
                wrong = (near > far).double() + 0.5 * (near == far).double()
                errors.setdefault((a, b), []).append(float(wrong.mean()))
    if not errors:
        raise UserError("--words: ABX needs words that at least two speakers say, and two words of one speaker")
    return float(np.mean([np.mean(own) for own in errors.values()]))


def dtw_distances(words: list[Tensor]) -> Tensor:
    """The mean angle (0 to 1) along the best alignment of each pair of words (T, D), as a symmetric matrix.

    The path of the lowest sum is searched cell by cell, for ``PAIRS`` pairs at a time; a step goes one frame on in
    either word or in both.
    """
    lengths = torch.tensor([len(word) for word in words])
    units = torch.nn.utils.rnn.pad_sequence([torch.nn.functional.normalize(word, dim=1) for word in words], True)
    result = torch.zeros(len(words), len(words))
    for first, second in zip(
        *(pairs.split(PAIRS) for pairs in torch.triu_indices(len(words), len(words))), strict=True
    ):
        cosines = units[first, : lengths[first].max()] @ units[second, : lengths[second].max()].mT
        angles = (torch.arccos(cosines.clamp(-1, 1)) / math.pi).permute(1, 2, 0).contiguous()  # (T, T', P)
        rows, columns, pairs = angles.shape
        sums = torch.full((rows + 1, columns + 1, pairs), torch.inf)
        steps = torch.zeros_like(sums)
        sums[0, 0] = 0.0
        for i, j in itertools.product(range(rows), range(columns)):
            best, which = torch.stack([sums[i, j], sums[i, j + 1], sums[i + 1, j]]).min(0)
            before = torch.stack([steps[i, j], steps[i, j + 1], steps[i + 1, j]])
            sums[i + 1, j + 1] = best + angles[i, j]
            steps[i + 1, j + 1] = before.gather(0, which.unsqueeze(0))[0] + 1
        ends = lengths[first], lengths[second], torch.arange(pairs)
        result[first, second] = sums[ends] / steps[ends]
    return result.triu() + result.triu(1).T


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
    tokens = [layers_of(encoder, waveform) for waveform, _, _ in words]
    rows = []
    for layer in range(encoder.num_layers + 1):
        kmeans = KMeans(UNITS, n_init=1, max_iter=20, random_state=0).fit(own[layer].numpy())
        units = torch.from_numpy(kmeans.predict(other[layer].numpy())).long()
        purity, pnmi = purity_and_pnmi(units, other_labels)
        row = {"phone": linear_accuracy(own[layer], own_labels, other[layer], other_labels), "pnmi": pnmi,
               "purity": purity, "rankme": rankme(other[layer])}  # fmt: skip
        if words:
            row["abx"] = abx_error([found[layer] for found in tokens], *map(list, list(zip(*words, strict=True))[1:]))
        rows.append(row)
    return rows


def find_words(source: str, most: int) -> list[Word]:
    """Labelled utterances with their speakers, at most ``most``, evenly taken."""
    corpus = find_utterances(source, "--words", labels=True)
    corpus.keep(lambda u: u.label is not None and u.speaker is not None, "{u.source}: no label or no speaker")
    if not corpus.utterances:
        raise UserError(f"--words {source}: rows need a label and a speaker")
    kept = [corpus.utterances[n] for n in range(0, len(corpus.utterances), -(-len(corpus.utterances) // most))]
    return [(u.read(), str(u.label), str(u.speaker)) for u in kept]


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
    parser.add_argument("--seconds", metavar="S", type=float, default=600.0, help="of speech, to fit and to test (600)")
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
