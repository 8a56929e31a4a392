"""What a source of audio holds, before anything is trained on it: hours, durations, unreadable files, the batch plan.

    python -m tools.inspect DATA                                  # whatever data.train may be
    python -m tools.inspect DATA --labels                         # with texts and labels, as finetune needs them
    python -m tools.inspect DATA --config configs/base.yaml data.max_s=20 --json plan.json

The batch plan is that of the first epoch on one rank, under ``batch`` and ``data`` of the configuration:
``configs/small.yaml`` unless --config names another. Padding is what a batch computes on beyond the audio in it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixvec.atomic import write_whole
from mixvec.data.plan import EpochPlan, deal
from mixvec.data.segments import cut_long, join_neighbours
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterances
from mixvec.errors import redacted, run_cli
from mixvec.text import TEXT_STYLES, normalise_text
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tools import command_parser

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "small.yaml"
EDGES_S = (0, 0.5, 1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 60, 300, 1800, 7200)
"""Lower bounds of the histogram's bars; the last is open."""
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
EXAMPLES, LABELS = 3, 20
"""Files listed for each reason, and labels listed, the most frequent first."""


def main() -> None:
    parser = command_parser("inspect", __doc__)
    parser.add_argument("data", metavar="DATA", help="a folder, manifest, archive, hub name, glob, or list [A,B]")
    parser.add_argument("keys", metavar="key=value", nargs="*", help="of the configuration, such as data.max_s=20")
    parser.add_argument("--config", metavar="CONFIG.yaml", type=Path, help="whose batches to plan (configs/small.yaml)")
    parser.add_argument("--labels", action="store_true", help="texts and labels too; the source must have them")
    parser.add_argument("--json", metavar="FILE", type=Path, help="all figures, for programs")
    args = parser.parse_intermixed_args()
    words = [str(args.config or DEFAULT_CONFIG), f"data.train={args.data}", *args.keys]
    facts = inspect(load_config(PretrainConfig, words, __doc__ or ""), args.labels)
    print(yaml.safe_dump(rounded(facts), sort_keys=False, allow_unicode=True, width=1000), end="")
    if args.json is not None:
        write_whole(args.json, json.dumps(facts, indent=2) + "\n")


def inspect(config: PretrainConfig, labels: bool) -> dict[str, Any]:
    """All figures of ``config.data.train``, as JSON takes them.

    Raises:
        UserError: there is no such source, or nothing in it that can be read.
    """
    corpus = find_utterances(config.data.train, "data.train", labels=labels, channel=config.data.channel)
    durations_s = corpus.utterances.durations_s
    counts, _ = np.histogram(durations_s, (*EDGES_S, np.inf))
    spans = [*(f"{low:g} to {high:g} s" for low, high in pairwise(EDGES_S)), f"{EDGES_S[-1]} s or more"]
    facts: dict[str, Any] = {
        "source": redacted(str(config.data.train)), "utterances": len(durations_s),
        "hours": float(durations_s.sum() / 3600),
        "formats": {f"{rate_hz} Hz, {channels} ch": n for (rate_hz, channels), n in corpus.formats.most_common()},
        "mean_s": float(durations_s.mean()),
        "quantiles_s": {f"{100 * q:g}%": float(np.quantile(durations_s, q)) for q in QUANTILES},
        "histogram": {span: int(count) for span, count in zip(spans, counts, strict=True) if count},
        "unreadable": len(corpus.skipped),
        "unreadable_share": len(corpus.skipped) / (len(corpus.skipped) + len(durations_s)),
        "reasons": reasons(corpus), "channels": corpus.channel_warnings("data.train"),
        "no_audio": [row["reason"] for row in corpus.notes],
    }  # fmt: skip
    return facts | ({"labels": label_facts(corpus.utterances)} if labels else {}) | {"plan": plan(config, corpus)}


def reasons(corpus: Corpus) -> list[dict[str, Any]]:
    """Why files were skipped, the most frequent first, without the names and numbers of one file; with examples."""
    found: dict[str, list[str]] = {}
    for row in corpus.skipped:
        reason = row["reason"].replace(row["source"], "…").replace(Path(row["source"]).name, "…").removeprefix("…: ")
        found.setdefault(re.sub(r"(?<![\w-])\d+(\.\d+)?", "N", reason), []).append(row["source"])
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [{"reason": reason, "count": len(those), "examples": those[:EXAMPLES]} for reason, those in ordered]


def plan(config: PretrainConfig, corpus: Corpus) -> dict[str, Any]:
    """What the first epoch is made of, on one rank: updates, batches, and how much of each batch is padding."""
    data, batch, found_s = config.data, config.batch, corpus.utterances.durations_s
    short = found_s < data.min_s
    kept = replace(corpus, utterances=corpus.utterances.where(~short), skipped=[])
    join_neighbours(kept, data.join_s)
    cut = cut_long(kept, data)
    found = len(kept.utterances)
    kept.utterances = kept.utterances.longest(data.longest_share)
    own_s, real_s, padded_s, batches = kept.utterances.durations_s, list[float](), list[float](), 0
    repeats = kept.repeats(data.temperature)
    for update in EpochPlan(own_s, batch.update_s, config.run.seed, 0, repeats) if len(own_s) else ():
        lengths = [own_s[part % len(own_s)] for part in deal(update, own_s, batch.max_s, ranks=1, rank=0)]
        real_s.append(sum(part_s.sum() for part_s in lengths))
        padded_s.append(sum(part_s.max() * len(part_s) for part_s in lengths))
        batches += len(lengths)
    padding = [1 - real / padded for real, padded in zip(real_s, padded_s, strict=True)]
    return {
        "data.min_s": data.min_s, "data.max_s": data.max_s, "batch.update_s": batch.update_s,
        "batch.max_s": batch.max_s, "shorter": int(short.sum()), "shorter_hours": float(found_s[short].sum() / 3600),
        "cut": cut or "none", "unusable": reasons(kept), "not_among_the_longest": found - len(kept.utterances),
        "updates_an_epoch": len(padding), "batches_an_epoch": batches, "hours_an_epoch": float(sum(real_s) / 3600),
        "padding_share": float(1 - sum(real_s) / sum(padded_s)) if padding else None,
        "padding_share_worst_update": float(max(padding)) if padding else None,
        "run.updates": config.run.updates, "epochs_a_run": config.run.updates / len(padding) if padding else None,
    }  # fmt: skip


def label_facts(utterances: Utterances) -> dict[str, Any]:
    """Texts and labels: how many have them, how long they are, and of how many kinds."""
    texts = [(u.text, u.duration_s) for u in utterances if u.text]
    words = Counter(word for text, _ in texts for word in text.split())
    characters = Counter(character for text, _ in texts for character in text)
    labels = Counter(u.label for u in utterances if u.label is not None)
    changed = dict.fromkeys(t for t, _ in texts if t != normalise_text(t))
    shown = (list(changed) or [text for text, _ in texts])[:EXAMPLES]
    return {
        "text.normalise": {text: {style: normalise_text(text, style) for style in TEXT_STYLES} for text in shown},
        "with_text": len(texts), "without_text": len(utterances) - len(texts), "words": words.total(),
        "different_words": len(words), "characters": "".join(sorted(characters)),
        "characters_a_second": characters.total() / sum(s for _, s in texts) if texts else None,
        "with_label": labels.total(), "without_label": len(utterances) - labels.total(),
        "different_labels": len(labels), "most_frequent_labels": dict(labels.most_common(LABELS)),
    }  # fmt: skip


def rounded(value: Any) -> Any:
    """The facts with numbers as people read them, to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    run_cli(main)
