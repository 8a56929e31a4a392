"""The ``mixvec`` command: speech files to text, labels or embeddings, with a published model.

    mixvec transcribe --model MODEL FILES... [--json]
    mixvec understand --model MODEL FILES... [--json] [--top N]
    mixvec embed --model MODEL FILES... [--json]

MODEL is a hub folder, a run directory or a name on the hub; FILES are audio files of any rate and any number of
channels, or folders of them. A file is read and recognised whole, in one pass, on the GPU where there is one. Audio
shorter than the model's shortest input is padded with silence.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError, run_cli

_EPILOG = """\
MODEL is a model folder, a run directory, or org/name on the hub. FILES are audio (wav, flac, ogg, opus, mp3, ...; any
rate, any channels) or folders, of which all audio below is taken in order. For one file the answer is printed
alone; for several, each line is the file, a tab and the answer. A file that cannot be read is reported on stderr, the
others are processed, and the exit code is 1. Audio shorter than the model's shortest input is padded with silence."""


def main() -> None:
    """Run the command line: exit 0, 1 where a file or the model failed, 2 for wrong usage, 130 after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        run_cli(_main)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell reports for SIGPIPE


def _main() -> None:
    args = _parser().parse_args()
    model, failed = _load(args.command, args.model), False
    if args.top is not None and not hasattr(model, "rank"):
        raise UserError(f"--top {args.top}: a {type(model).__name__} ranks no labels; leave --top out")
    alone = len(args.files) == 1 and not args.files[0].is_dir()
    for path in _expand(args.files):
        try:
            if isinstance(path, UserError):
                raise path
            answer = _answer(model, path, args.top)
        except UserError as error:
            failed = True
            print(" ".join(f"error: {error}".splitlines()), file=sys.stderr, flush=True)
            continue
        if args.json:
            print(json.dumps({"path": str(path), **answer}, ensure_ascii=False), flush=True)
        else:
            print(_plain(answer, args.top) if alone else f"{path}\t{_plain(answer, args.top)}", flush=True)
    if failed:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixvec",
        description="Use a published model: transcribe speech, classify it or embed its speaker.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{transcribe,understand,embed}")
    for name, does, fields in [
        ("transcribe", "transcribe each file", "path, text, seconds (of audio)"),
        (
            "understand",
            "classify each file, or extract its intent and slots",
            "path, label, probabilities (or intent, text, slots), seconds (of audio)",
        ),
        ("embed", "compute a speaker embedding for each file", "path, embedding (of length 1), seconds (of audio)"),
    ]:
        command = commands.add_parser(
            name, help=does, description=does.capitalize() + ".", epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_argument("--model", required=True, metavar="MODEL", help="model folder, run directory or org/name")
        command.add_argument("files", nargs="+", type=Path, metavar="FILES", help="audio files, or folders of them")
        command.add_argument("--json", action="store_true", help=f"one JSON object per line: {fields}")
        command.set_defaults(top=None)
        if name == "understand":
            command.add_argument(
                "--top", type=_positive, metavar="N", help="the N likeliest labels, each with its probability"
            )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _load(command: str, name: str) -> Any:
    """The model for a command, in eval mode, on the GPU where there is one.

    Raises:
        UserError: there is no such model, or it is one for something else.
    """
    from .hub import load_model, read_config
    from .locate import resolve
    from .model import HEADS

    folder = resolve(name)
    architecture = read_config(folder)["architecture"]
    head = HEADS.get(architecture)
    if head is None or head.command != command:
        remedy = f"use it with `mixvec {head.command}`" if head else "fine-tune it first, with `python -m finetune`"
        wanted = " or ".join(name for name, head in HEADS.items() if head.command == command)
        raise UserError(f"{name}: a {architecture}, and {command} needs a {wanted}: {remedy}")
    return load_model(folder).to("cuda" if torch.cuda.is_available() else "cpu")


def _expand(paths: list[Path]) -> Iterator[Path | UserError]:
    """The files, folders as the audio below them in order; an error where there is none."""
    from .audio import EXTENSIONS

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = [p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
        inside = sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))
        if not inside:
            yield UserError(f"{path}: no audio in this folder")
        yield from inside


def _answer(model: Any, path: Path, top: int | None) -> dict[str, Any]:
    """The model's answer for a file: text, or label and ``top`` probabilities; and the seconds of audio.

    Raises:
        UserError: the file cannot be read, or does not fit into memory.
    """
    from .audio import read_audio
    from .model.frontend import SAMPLE_RATE_HZ

    waveform = read_audio(path)  # (S,)
    seconds = round(len(waveform) / SAMPLE_RATE_HZ, 3)
    try:
        waveforms = _lengthened(waveform, model.encoder.min_samples).unsqueeze(0).to(next(model.parameters()).device)
        answer: dict[str, Any] = model.answer(waveforms)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise UserError(f"{path}: {seconds:.0f} s of audio do not fit into memory; cut it into parts") from error
    if "probabilities" in answer:
        answer["probabilities"] = dict(list(answer["probabilities"].items())[:top])
    return {**answer, "seconds": seconds}


def _lengthened(waveform: Tensor, samples: int) -> Tensor:
    """(S,) padded with silence to at least ``samples``."""
    return torch.nn.functional.pad(waveform, (0, max(0, samples - len(waveform))))


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def _plain(answer: dict[str, Any], top: int | None) -> str:
    """Text, label, embedding, or intent and slots parted by tabs; with ``top``, labels and their probabilities."""
    if "embedding" in answer:
        return " ".join(map(str, answer["embedding"]))
    if "slots" in answer:
        slots = [f"{slot['type']}={slot['value']}" for slot in answer["slots"]]
        return "\t".join([answer["intent"] or "-", *slots])
    if top is None:
        return str(answer.get("text", answer.get("label")))
    return "\t".join(f"{label} {p:.3f}" for label, p in answer["probabilities"].items())


if __name__ == "__main__":
    main()
