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

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.config import FinetuneConfig
from finetune.evaluate import write_rows
from finetune.lexicon import NgramBeam, out_of_vocabulary, tokenize_words, words_of
from finetune.scoring import count_characters, count_words
from finetune.setup import find_corpora
from finetune.tasks import Scored
from finetune.tokenizer import Tokenizer, load_tokenizer
from mixvec import CtcRecognizer
from mixvec.atomic import write_whole
from mixvec.data.batches import read_clip
from mixvec.data.sources import Corpus
from mixvec.errors import UserError, run_cli
from mixvec.hub import load_model
from mixvec.model.beam import prefix_beam
from mixvec.text import normalise_text
from mixvec.training.config import load_config
from tools.score import comparison, read_rows

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0)


class Output(NamedTuple):
    """A split with the output of the model."""

    rows: list[Scored]
    """The predictions are the greedy ones."""
    log_probs: list[Tensor]
    """Each (T, V); without frames where the audio cannot be decoded."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a complete recognition run")
    parser.add_argument(
        "keys", metavar="key=value", nargs="*", help="of the run's configuration, such as data.test=DIR"
    )
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
    config = read_run(args.run, args.keys)
    model = load_model(args.run / "hub")
    if not isinstance(model, CtcRecognizer):
        raise UserError(f"{args.run}: a {type(model).__name__}; only a recogniser's output can be searched")
    corpora = find_corpora(config)
    for corpus in corpora.values():
        corpus.keep(lambda u: normalise_text(u.text or "", config.data.text), "{u.source}: no text")
    decode(args, config, model, {split: corpus for split, corpus in corpora.items() if len(corpus.utterances)})


def read_run(run: Path, keys: list[str]) -> FinetuneConfig:
    """The configuration of a run.

    Raises:
        UserError: there is no such run, or it has no model yet.
    """
    if not (run / "config.yaml").is_file() or not (run / "hub" / "config.json").is_file():
        raise UserError(f"{run}: no fine-tuning run with a model in it; give its run.dir")
    return load_config(FinetuneConfig, [str(run / "config.yaml"), *keys], __doc__ or "")


def decode(args: argparse.Namespace, config: FinetuneConfig, model: CtcRecognizer, corpora: dict[str, Corpus]) -> None:
    """Search the test data, or the validation data where there is none, and print the gain over greedy search."""
    split = "test" if "test" in corpora else "valid"
    if split not in corpora or (args.sweep and "valid" not in corpora):
        raise UserError(f"{args.run}: data.valid or data.test with texts is needed, and data.valid for --sweep")
    facts: dict[str, Any] = {"beam": args.beam or (100 if args.lm else 16)}
    if args.lm:
        texts = {
            name: [normalise_text(u.text or "", config.data.text) for u in c.utterances] for name, c in corpora.items()
        }
        search = ngram_beam(args, config, model, texts, split)
        weights = args.lm_weight, args.word_score
        if args.sweep:
            output = outputs(config, model, corpora["valid"])
            weights, facts["sweep"] = sweep(search, model, output, facts["beam"], config.best_by)
        facts |= {"lm": args.lm, "lm_weight": weights[0], "word_score": weights[1]}
        found = outputs(config, model, corpora[split])
        entries = search.decode(found.log_probs, *weights, beam=facts["beam"])
    else:
        found = outputs(config, model, corpora[split])
        entries = [list(prefix_beam(own, facts["beam"])[0][0]) for own in found.log_probs]
    rows = [row._replace(prediction=model.spell(own)) for row, own in zip(found.rows, entries, strict=True)]
    files = [args.run / f"{split}-greedy.jsonl", args.run / f"{split}-{'lm' if args.lm else 'beam'}.jsonl"]
    for file, own in zip(files, (found.rows, rows), strict=True):
        write_rows(file, own)
    facts |= {"split": split, "greedy": rates(found.rows), "searched": rates(rows)}
    write_whole(args.run / "decode.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    print("\n".join(comparison(files, [read_rows(file) for file in files])))


def ngram_beam(
    args: argparse.Namespace, config: FinetuneConfig, model: CtcRecognizer, texts: dict[str, list[str]], split: str
) -> NgramBeam:
    """The search that ``--lm`` asks for; prints which words of the data its lexicon lacks."""
    characters = config.asr.units == "characters"
    tokenizer = Tokenizer(model.vocabulary) if characters else load_tokenizer(args.run, model.vocabulary)
    arpa = Path(args.lm)
    if not arpa.is_file():
        raise UserError(f"--lm {arpa}: no such file; give an ARPA file")
    lexicon, notes = tokenize_words(words_of(arpa), tokenizer, config.data.text, str(arpa))
    for note in notes:
        print(note)
    shown = "valid" if "valid" in texts else split  # the test data are scored once, and not looked at before
    print(out_of_vocabulary(texts[shown], lexicon, tokenizer, f"{arpa}, for data.{shown}"))
    return NgramBeam(arpa, lexicon, model.vocabulary)


def sweep(
    search: NgramBeam, model: CtcRecognizer, output: Output, beam: int, best_by: str
) -> tuple[tuple[float, float], list[dict[str, float]]]:
    """The weight and the bonus with the lowest error rate on a split, and the rates of all."""
    tried = []
    for weight in WEIGHTS:
        for bonus in BONUSES:
            entries = search.decode(output.log_probs, weight, bonus, beam)
            rows = [row._replace(prediction=model.spell(own)) for row, own in zip(output.rows, entries, strict=True)]
            tried.append({"lm_weight": weight, "word_score": bonus, **rates(rows)})
    print(
        f"data.valid, {best_by} %, greedy {100 * rates(output.rows)[best_by]:.2f}; columns: word score, rows: LM weight"
    )
    print(f"{'':6}" + "".join(f"{bonus:8g}" for bonus in BONUSES))
    for weight in WEIGHTS:
        own = [row[best_by] for row in tried if row["lm_weight"] == weight]
        print(f"{weight:6g}" + "".join(f"{100 * value:8.2f}" for value in own))
    best = min(tried, key=lambda row: row[best_by])
    print(f"chosen: --lm-weight {best['lm_weight']:g} --word-score {best['word_score']:g}")
    return (best["lm_weight"], best["word_score"]), tried


def rates(rows: list[Scored]) -> dict[str, float]:
    """The word and the character error rate."""
    texts = [row.reference for row in rows], [row.prediction for row in rows]
    found = {"wer": count_words(*texts).counts.sum(axis=0), "cer": count_characters(*texts).counts.sum(axis=0)}
    return {name: float(counts[1:].sum() / max(counts[:3].sum(), 1)) for name, counts in found.items()}


@torch.inference_mode()
def outputs(config: FinetuneConfig, model: CtcRecognizer, corpus: Corpus) -> Output:
    """The model on every utterance once, one by one, on the GPU where there is one.

    Raises:
        UserError: none of them can be decoded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    longest_s, rng = float(corpus.utterances.durations_s.max()), np.random.default_rng(0)
    output, lost = Output([], []), []
    for utterance in corpus.utterances:
        row = Scored(replace(utterance, stored=None), normalise_text(utterance.text or "", config.data.text), "")
        try:
            waveform = read_clip(utterance, rng, longest_s + 1, config.data.min_s).waveform
        except UserError as error:
            lost.append(str(error))
            log_probs = torch.zeros(0, len(model.vocabulary))
        else:
            missing = max(0, model.encoder.min_samples - len(waveform))
            log_probs = (
                model(torch.nn.functional.pad(waveform, (0, missing)).unsqueeze(0).to(device))[0][0].float().cpu()
            )
        (text,) = model.decode(log_probs.unsqueeze(0), torch.tensor([len(log_probs)]))
        output.rows.append(row._replace(prediction=text))
        output.log_probs.append(log_probs)
    if len(lost) == len(output.rows):
        raise UserError(f"{corpus.name}: nothing in it can be decoded: {lost[0]}")
    if lost:
        print(f"WARNING {corpus.name}: {len(lost)} utterances cannot be decoded and count as errors: {lost[0]}")
    return output


if __name__ == "__main__":
    run_cli(main)
