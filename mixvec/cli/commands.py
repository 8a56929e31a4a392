"""What each ``mixvec`` command prints and writes."""

from __future__ import annotations

import io
import json
import os
import sys
from argparse import Namespace
from typing import Any

from ..errors import UserError
from .answers import Answer, answers
from .inputs import clips_of
from .predictor import Predictor, device_named, load_predictor


def run_command(args: Namespace) -> None:
    """Run a command on its files; exits with 1 where one could not be used.

    Raises:
        UserError: the model or an option cannot be used.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    predictor, failed = load_predictor(args.command, args.model, device_named(args.device)), False
    if args.top is not None and not predictor.labels:
        raise UserError(f"--top {args.top}: {args.model} ranks no labels; leave --top out")
    alone = len(args.files) == 1 and not os.path.isdir(args.files[0])
    for answer in answers(clips_of(args.files), predictor, gate=not args.no_gate, cut=not args.whole):
        if isinstance(answer, UserError):
            failed = True
            print(" ".join(f"error: {answer}".splitlines()), file=sys.stderr, flush=True)
            continue
        made = merged(answer, predictor, args.top)
        if not answer.speech:
            note = f"{answer.clip.name}: no speech in it by its energy; --no-gate answers all the same"
            print(" ".join(note.splitlines()), file=sys.stderr, flush=True)
        if args.json:
            print(json.dumps({"path": answer.clip.name, **made}, ensure_ascii=False), flush=True)
        else:
            print(plain(made, args.top) if alone else f"{answer.clip.name}\t{plain(made, args.top)}", flush=True)
    if failed:
        sys.exit(1)


def merged(answer: Answer, predictor: Predictor, top: int | None) -> dict[str, Any]:
    """The answer to a clip as plain JSON values: the texts of its parts joined, ``top`` probabilities."""
    made: dict[str, Any] = dict(answer.predictions[0].answer) if answer.predictions else {}
    if len(answer.predictions) > 1:
        made["text"] = " ".join(filter(None, (one.answer["text"] for one in answer.predictions)))
    if "probabilities" in made:
        made["probabilities"] = dict(list(made["probabilities"].items())[:top])
    return {**made, "seconds": round(answer.seconds, 3), "speech": answer.speech, **answer.clip.span}


def plain(made: dict[str, Any], top: int | None) -> str:
    """Text, label, embedding, or intent and slots parted by tabs; with ``top``, labels and their probabilities."""
    if "embedding" in made:
        return " ".join(map(str, made["embedding"]))
    if "slots" in made:
        slots = [f"{slot['type']}={slot['value']}" for slot in made["slots"]]
        return "\t".join([made["intent"] or "-", *slots])
    if top is None or "probabilities" not in made:
        return str(made.get("text", made.get("label", "")))
    return "\t".join(f"{label} {p:.3f}" for label, p in made["probabilities"].items())
