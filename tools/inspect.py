"""What a source of audio holds, before anything is trained on it: hours, durations, unreadable files, the batch plan.

    python -m tools.inspect DATA                                  # whatever data.train may be
    python -m tools.inspect DATA --labels                         # with texts and labels, as finetune needs them
    python -m tools.inspect DATA --config configs/base.yaml data.max_s=20 --plot plan.png --json plan.json

The batch plan is that of the first epoch on one rank, under ``batch`` and ``data`` of the configuration:
``configs/small.yaml`` unless --config names another. Padding is what a batch computes on beyond the audio in it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mixvec.atomic import write_whole
from mixvec.data.plan import deal, plan_epoch
from mixvec.data.segments import cut_long
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterances
from mixvec.errors import UserError, redacted, run_cli
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tools import picture

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "small.yaml"
EDGES_S = (0, 0.5, 1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 60, 300, 1800, 7200)
"""Bounds of the histogram's bars; the last is open."""
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
BAR = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="a folder, manifest, archive, hub name, glob, or list [A,B]")
    parser.add_argument("keys", metavar="key=value", nargs="*", help="of the configuration, such as data.max_s=20")
    parser.add_argument("--config", metavar="CONFIG.yaml", type=Path, help="whose batches to plan (configs/small.yaml)")
    parser.add_argument("--labels", action="store_true", help="texts and labels too; the source must have them")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="durations and padding as a picture")
    parser.add_argument("--json", metavar="FILE", type=Path, help="all figures, for programs")
    args = parser.parse_intermixed_args()
    if args.plot is not None:
        picture.check_plot(args.plot)
    words = [str(args.config or DEFAULT_CONFIG), f"data.train={args.data}", *args.keys]
    facts = inspect(load_config(PretrainConfig, words, __doc__ or ""), args.labels)
    facts["config"] = str(args.config or "configs/small.yaml")
    print(table(facts))
    try:
        if args.json is not None:
            write_whole(args.json, json.dumps(facts, indent=2) + "\n")
        if args.plot is not None:
            draw(facts, args.plot)
    except OSError as error:
        raise UserError(f"{error.filename2 or error.filename}: cannot be written ({error.strerror})") from error


def inspect(config: PretrainConfig, labels: bool) -> dict[str, Any]:
    """All figures of ``config.data.train``, as JSON takes them.

    Raises:
        UserError: there is no such source, or nothing in it that can be read.
    """
    corpus = find_utterances(config.data.train, "data.train", labels=labels)
    durations_s = corpus.utterances.durations_s
    counts, _ = np.histogram(durations_s, (*EDGES_S, np.inf))
    seconds, _ = np.histogram(durations_s, (*EDGES_S, np.inf), weights=durations_s)
    facts: dict[str, Any] = {
        "source": redacted(str(config.data.train)),
        "utterances": len(durations_s),
        "hours": durations_s.sum() / 3600,
        "formats": [
            {"rate_hz": rate_hz, "channels": channels, "utterances": count}
            for (rate_hz, channels), count in corpus.formats.most_common()
        ],
        "quantiles_s": {f"{100 * q:g}%": float(np.quantile(durations_s, q)) for q in QUANTILES},
        "mean_s": float(durations_s.mean()),
        "histogram": [
            {"from_s": float(low), "utterances": int(count), "hours": float(spent / 3600)}
            for low, count, spent in zip(EDGES_S, counts, seconds, strict=True)
        ],
        "skipped": len(corpus.skipped),
        "skipped_share": len(corpus.skipped) / (len(corpus.skipped) + len(durations_s)),
        "reasons": reasons(corpus),
        "plan": plan(config, corpus),
    }
    return facts | ({"labels": label_facts(corpus.utterances)} if labels else {})


def reasons(corpus: Corpus) -> list[dict[str, Any]]:
    """Why files were skipped, the most frequent first, without the names and numbers of one file; three examples."""
    found: dict[str, list[str]] = {}
    for row in corpus.skipped:
        source, reason = row["source"], row["reason"].replace(row["source"], "…")
        if name := Path(source).name:
            reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", reason)
        reason = re.sub(r"(?<![\w-])\d+(\.\d+)?", "N", " ".join(reason.split())).removeprefix("…: ")
        found.setdefault(_plain(reason), []).append(source)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [{"reason": reason, "count": len(those), "examples": those[:3]} for reason, those in ordered]


def plan(config: PretrainConfig, corpus: Corpus) -> dict[str, Any]:
    """What the first epoch is made of, on one rank: updates, batches, and how much of each batch is padding."""
    data, batch, found_s = config.data, config.batch, corpus.utterances.durations_s
    short = found_s < data.min_s
    kept = replace(corpus, utterances=corpus.utterances.where(~short), skipped=[])
    cut = cut_long(kept, data)
    found = len(kept.utterances)
    kept.utterances = kept.utterances.longest(data.longest_share)
    own_s, real_s, padded_s, batches = kept.utterances.durations_s, [], [], 0
    updates: Sequence[Any] = ()
    if len(own_s):
        updates = plan_epoch(own_s, batch.update_s, config.run.seed, 0, kept.repeats(data.temperature))
    for update in updates:
        lengths = [own_s[part % len(own_s)] for part in deal(update, own_s, batch.max_s, ranks=1, rank=0)]
        real_s.append(sum(part_s.sum() for part_s in lengths))
        padded_s.append(sum(part_s.max() * len(part_s) for part_s in lengths))
        batches += len(lengths)
    return {
        "min_s": data.min_s, "max_s": data.max_s, "batch_max_s": batch.max_s, "update_s": batch.update_s,
        "left_out": int(short.sum()), "left_out_hours": float(found_s[short].sum() / 3600),
        "cut": cut.recordings, "segments": cut.segments, "cut_as": str(cut),
        "cut_left_out_hours": cut.left_out_s / 3600, "unreadable": reasons(kept),
        "longest_share": data.longest_share, "not_among_the_longest": found - len(kept.utterances),
        "hours_an_epoch": float(sum(real_s) / 3600), "updates_an_epoch": len(updates), "batches_an_epoch": batches,
        "padding_share": float(1 - sum(real_s) / sum(padded_s)) if updates else None,
        "padding_by_update": [float(1 - real / padded) for real, padded in zip(real_s, padded_s, strict=True)],
        "run_updates": config.run.updates, "epochs_a_run": config.run.updates / len(updates) if updates else None,
    }  # fmt: skip


def label_facts(utterances: Utterances) -> dict[str, Any]:
    """Texts and labels: how many have them, how long they are, and of how many kinds."""
    texts = [(u.text, u.duration_s) for u in utterances if u.text]
    words = Counter(word for text, _ in texts for word in text.split())
    characters = Counter(character for text, _ in texts for character in text)
    labels = Counter(u.label for u in utterances if u.label is not None)
    return {
        "with_text": len(texts),
        "without_text": len(utterances) - len(texts),
        "words": words.total(),
        "different_words": len(words),
        "characters": characters.total(),
        "characters_a_second": characters.total() / sum(s for _, s in texts) if texts else None,
        "different_characters": "".join(sorted(characters)),
        "with_label": labels.total(),
        "without_label": len(utterances) - labels.total(),
        "label_counts": dict(labels.most_common()),
    }


def table(facts: dict[str, Any]) -> str:
    """The figures as people read them."""
    formats = [f"{f['rate_hz']:,} Hz, {f['channels']} ch: {f['utterances']:,}" for f in facts["formats"][:6]]
    lines = [
        _plain(facts["source"]),
        f"{facts['hours']:.2f} h in {facts['utterances']:,} utterances, {_time(facts['mean_s'])} on average",
        f"as recorded: {'; '.join(formats)}",
        "durations: " + "  ".join(f"{name} {_time(value)}" for name, value in facts["quantiles_s"].items()),
    ]
    most = max(row["utterances"] for row in facts["histogram"])
    for span, row in _bars(facts):
        bar = "█" * max(round(BAR * row["utterances"] / most), int(row["utterances"] > 0))
        lines.append(f"  {span:>18}  {row['utterances']:>10,}  {row['hours']:>9.2f} h  {bar}".rstrip())
    if facts["skipped"]:
        lines.append(f"unreadable: {facts['skipped']:,} ({100 * facts['skipped_share']:.2f} %)")
        for row in facts["reasons"]:
            lines += [f"  {row['count']:,}: {row['reason']}", *(f"      {_plain(name)}" for name in row["examples"])]
    if labels := facts.get("labels"):
        lines.append(f"text: {labels['with_text']:,} utterances with, {labels['without_text']:,} without")
        if labels["with_text"]:
            lines.append(
                f"  {labels['words']:,} words, {labels['different_words']:,} different; {labels['characters']:,} "
                f"characters, {labels['characters_a_second']:.1f} a second, of {len(labels['different_characters'])} "
                f"kinds: {_plain(labels['different_characters'])}"
            )
        lines.append(f"labels: {labels['with_label']:,} utterances with, {labels['without_label']:,} without")
        lines += [f"  {count:>10,}  {_plain(label)}" for label, count in list(labels["label_counts"].items())[:20]]
    return "\n".join([*lines, *_plan_lines(facts["config"], facts["plan"])])


def _plan_lines(config: str, p: dict[str, Any]) -> list[str]:
    lines = [f"the plan under {config}: batch.update_s={p['update_s']:g} batch.max_s={p['batch_max_s']:g} "
             f"data.min_s={p['min_s']:g} data.max_s={p['max_s']:g}, one rank"]  # fmt: skip
    if p["left_out"]:
        lines.append(f"  {p['left_out']:,} utterances ({p['left_out_hours']:.2f} h) are shorter and left out")
    if p["cut"]:
        lines.append(f"  {p['cut_as']}")
        lines += [f"  {row['count']:,} of them cannot be used: {row['reason']}" for row in p["unreadable"]]
    if p["not_among_the_longest"]:
        lines.append(f"  {p['not_among_the_longest']:,} are not among the longest and left out "
                     f"(data.longest_share={p['longest_share']:g})")  # fmt: skip
    if not p["updates_an_epoch"]:
        return [*lines, "  nothing is left to train on"]
    return [
        *lines,
        f"  an epoch: {p['hours_an_epoch']:.2f} h in {p['updates_an_epoch']:,} updates, {p['batches_an_epoch']:,} "
        "batches",
        f"  padding: {100 * p['padding_share']:.2f} % of the computation, {100 * max(p['padding_by_update']):.2f} % in "
        "the worst update",
        f"  run.updates={p['run_updates']:,} are {p['epochs_a_run']:.2f} epochs",
    ]


def draw(facts: dict[str, Any], path: Path) -> None:
    """Utterances by duration, and padding by update, as a PNG."""
    page = picture.figure(11, 4.2)
    left, right = page.subplots(1, 2)
    spans, rows = zip(*_bars(facts), strict=True)
    left.bar(spans, [row["utterances"] for row in rows])
    left.tick_params(axis="x", rotation=45)
    left.set(ylabel="utterances", title=f"{facts['hours']:.2f} h in {facts['utterances']:,} utterances")
    shares = facts["plan"]["padding_by_update"]
    right.plot(range(1, len(shares) + 1), [100 * share for share in shares], ".")
    right.set(xlabel="update of the first epoch", ylabel="padding, % of the computation", ylim=(0, None))
    picture.write(page, path)


def _bars(facts: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The histogram's rows from the first to the last that has utterances, each with its span."""
    rows = facts["histogram"]
    ends = [f"to {_time(row['from_s'])}" for row in rows[1:]] + ["or more"]
    used = [i for i, row in enumerate(rows) if row["utterances"]]
    return [(f"{_time(rows[i]['from_s'])} {ends[i]}", rows[i]) for i in range(used[0], used[-1] + 1)]


def _plain(text: str) -> str:
    """On one line, and printable whatever bytes a file's name is made of."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:300]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


if __name__ == "__main__":
    run_cli(main)
