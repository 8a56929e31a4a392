"""Decode a run's test data again, with prefix beam search or with beam search over the words of an n-gram.

    python -m tools.decode RUN                                  # prefix beam search
    python -m tools.decode RUN --lm FILE.arpa --sweep           # weights chosen on data.valid, data.test scored once
    python -m tools.decode RUN --lm FILE.arpa --lm-weight 2 --word-score 0.5 [data.test=DIR]

RUN is the directory of a complete recognition run. The n-gram is an ARPA file, as KenLM's lmplz estimates it from text.
Its words are normalised and tokenized as the run's texts are; its weight multiplies log10 probabilities. Hypotheses go
to RUN/test-beam.jsonl or RUN/test-lm.jsonl, those of greedy search to RUN/test-greedy.jsonl, the weights and scores to
RUN/decode.json. A model with an attention decoder is searched by its CTC output alone.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.config import FinetuneConfig
from finetune.evaluate import write_rows
from finetune.scoring import error_rates
from finetune.setup import find_corpora
from finetune.tasks import Scored
from mixvec import CtcRecognizer
from mixvec.atomic import write_whole
from mixvec.data.batches import read_clip
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.errors import UserError, run_cli
from mixvec.hub import load_model
from mixvec.ngram import NgramBeam, load_ngram
from mixvec.text import normalise_text
from mixvec.training.config import load_config
from mixvec.transcript import ctc_search
from tools import command_parser
from tools.score import comparison, read_rows

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0)


def main() -> None:
    parser = command_parser("decode", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a complete recognition run")
    parser.add_argument("keys", metavar="key=value", nargs="*", help="of the run's configuration: data.test=DIR")
    parser.add_argument("--lm", metavar="FILE.arpa", help="an n-gram language model of words")
    parser.add_argument("--beam", type=int, metavar="N", help="hypotheses kept (16; 100 with an n-gram)")
    parser.add_argument("--lm-weight", type=float, default=1.5, metavar="X", help="of the n-gram's log10 (1.5)")
    parser.add_argument("--word-score", type=float, default=0.0, metavar="X", help="added for each word (0)")
    parser.add_argument("--sweep", action="store_true", help="choose both on data.valid")
    args = parser.parse_intermixed_args()
    if args.sweep and not args.lm:
        raise UserError("--sweep chooses the weights of an n-gram: give --lm too")
    if args.beam is not None and args.beam < 1:
        raise UserError(f"--beam {args.beam} must be at least 1")
    decode(args, *open_run(args.run, args.keys))


def open_run(folder: Path, keys: Sequence[str] = ()) -> tuple[FinetuneConfig, CtcRecognizer, dict[str, Corpus]]:
    """A complete recognition run: its configuration with ``keys``, its model, its corpora with texts by split.

    Raises:
        UserError: it is none.
    """
    if not (folder / "config.yaml").is_file() or not (folder / "hub" / "config.json").is_file():
        raise UserError(f"{folder}: no fine-tuning run with a model in it; give its run.dir")
    config = load_config(FinetuneConfig, [str(folder / "config.yaml"), *keys], __doc__ or "")
    model = load_model(folder / "hub")
    if not isinstance(model, CtcRecognizer):
        raise UserError(f"{folder}: a {type(model).__name__}; only a recogniser's output can be searched")
    corpora = find_corpora(config)
    for corpus in corpora.values():
        corpus.keep(lambda u: normalise_text(u.text or "", config.text.normalise), "{u.source}: no text")
    return config, model.eval(), {split: corpus for split, corpus in corpora.items() if len(corpus.utterances)}


def decode(args: Namespace, config: FinetuneConfig, model: CtcRecognizer, corpora: dict[str, Corpus]) -> None:
    """Search the test data, or the validation data where there is none, and print the gain over greedy search."""
    split = "test" if "test" in corpora else "valid"
    if split not in corpora or (args.sweep and "valid" not in corpora):
        raise UserError(f"{args.run}: data.valid or data.test with texts is needed, and data.valid for --sweep")
    beam = args.beam or (100 if args.lm else 16)
    facts: dict[str, Any] = {"split": split, "beam": beam}
    if args.lm:
        ngram, notes = load_ngram(Path(args.lm), args.run, model.vocabulary, config.text.normalise)
        print("".join(f"{note}\n" for note in notes), end="")
        chosen = {"lm_weight": args.lm_weight, "word_score": args.word_score}
        if args.sweep:
            tried = sweep(ngram, model, *outputs(config, model, corpora["valid"]), beam, config.best_by)
            best = min(tried, key=lambda row: row[config.best_by])
            chosen, facts["sweep"] = {key: best[key] for key in chosen}, tried
            print("chosen: --lm-weight {lm_weight:g} --word-score {word_score:g}".format(**chosen))
        facts |= {"lm": args.lm, **chosen}
    greedy, log_probs = outputs(config, model, corpora[split])
    found = (
        ngram.decode(log_probs, chosen["lm_weight"], chosen["word_score"], beam)
        if args.lm
        else prefix_beam(log_probs, beam)
    )
    searched = spelled(model, greedy, found)
    files = [args.run / f"{split}-greedy.jsonl", args.run / f"{split}-{'lm' if args.lm else 'beam'}.jsonl"]
    for file, rows in zip(files, (greedy, searched), strict=True):
        write_rows(file, rows)
    facts |= {"greedy": rates(greedy), "searched": rates(searched)}
    write_whole(args.run / "decode.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    print("\n".join(comparison(files, [read_rows(file) for file in files])))


def prefix_beam(log_probs: list[Tensor], beam: int) -> list[list[int]]:
    """The most probable token sequence for each utterance's log-probabilities (T, V), summed over its alignments."""
    search = ctc_search(log_probs[0].shape[1], beam)
    best = [search(own.float().unsqueeze(0))[0][0].tokens.tolist() if len(own) else [] for own in log_probs]
    return [[token for token in tokens if token != 0] for tokens in best]


def sweep(
    ngram: NgramBeam, model: CtcRecognizer, greedy: list[Scored], log_probs: list[Tensor], beam: int, by: str
) -> list[dict[str, float]]:
    """The error rates on a split with each weight and word score, printed as a table."""
    tried = []
    print(f"data.valid, {by} %, greedy {100 * rates(greedy)[by]:.2f}; columns: word score, rows: LM weight")
    print(f"{'':6}" + "".join(f"{bonus:8g}" for bonus in BONUSES))
    for weight in WEIGHTS:
        for bonus in BONUSES:
            rows = spelled(model, greedy, ngram.decode(log_probs, weight, bonus, beam))
            tried.append({"lm_weight": weight, "word_score": bonus, **rates(rows)})
        print(f"{weight:6g}" + "".join(f"{100 * row[by]:8.2f}" for row in tried[-len(BONUSES) :]), flush=True)
    return tried


def spelled(model: CtcRecognizer, rows: list[Scored], found: list[list[int]]) -> list[Scored]:
    """The rows with the text of these tokens as predictions."""
    return [row._replace(prediction=model.spell(tokens)) for row, tokens in zip(rows, found, strict=True)]


def rates(rows: list[Scored]) -> dict[str, float]:
    """The word and the character error rate."""
    return error_rates([str(row.reference) for row in rows], [str(row.prediction) for row in rows])


def outputs(config: FinetuneConfig, model: CtcRecognizer, corpus: Corpus) -> tuple[list[Scored], list[Tensor]]:
    """The greedy predictions and log-probabilities (T, V) of every utterance, one by one, on a GPU where there is one.

    Without frames where the audio cannot be decoded.

    Raises:
        UserError: none of them can be decoded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    rows: list[Scored] = []
    output: list[Tensor] = []
    for utterance, wanted, samples in recordings(config, model, corpus):
        output.append(log_probs_of(model, samples.to(device)).cpu())
        (text,) = model.decode(output[-1].unsqueeze(0), torch.tensor([len(output[-1])]))
        rows.append(Scored(utterance, wanted, text))
    return rows, output


def recordings(config: FinetuneConfig, model: CtcRecognizer, corpus: Corpus) -> Iterator[tuple[Utterance, str, Tensor]]:
    """Each utterance, its text and its samples (S,), padded to a frame; no samples where it cannot be decoded.

    Raises:
        UserError: none of them can be decoded.
    """
    longest_s, rng = float(corpus.utterances.durations_s.max()), np.random.default_rng(0)
    lost: list[str] = []
    for utterance in corpus.utterances:
        samples = torch.zeros(0)
        try:
            samples = read_clip(utterance, rng, longest_s + 1, config.data.min_s).waveform
            samples = torch.nn.functional.pad(samples, (0, max(0, model.encoder.min_samples - len(samples))))
        except UserError as error:
            lost.append(str(error))
        yield replace(utterance, stored=None), normalise_text(utterance.text or "", config.text.normalise), samples
    if len(lost) == len(corpus.utterances):
        raise UserError(f"{corpus.name}: nothing in it can be decoded: {lost[0]}")
    if lost:
        print(f"WARNING {corpus.name}: {len(lost)} utterances cannot be decoded and count as errors: {lost[0]}")


@torch.inference_mode()
def log_probs_of(model: CtcRecognizer, samples: Tensor) -> Tensor:
    """Log-probabilities (T, V) of samples (S,); without frames where there are none."""
    if not len(samples):
        return torch.zeros(0, len(model.vocabulary))
    log_probs: Tensor = model(samples.unsqueeze(0))[0][0].float()
    return log_probs


if __name__ == "__main__":
    run_cli(main)
