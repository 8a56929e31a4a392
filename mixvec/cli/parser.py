"""The words of the ``mixvec`` command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..version import __version__
from .checkout import TOOLS

EPILOG = """\
MODEL is a model folder, a run directory, org/name[@revision] on the hub, or an .onnx file of `mixvec export`. FILES are
audio (any rate, any channels), folders of it, manifests and every other form of data that mixvec reads, URLs (https://,
hf://, s3://, ...), or - for standard input. For one file the answer is printed alone; for several, each line is the
file, a tab and the answer. A file that cannot be read is reported on stderr, the others are processed, the exit code
is 1. Audio shorter than the model's shortest input is padded with silence."""
COMMANDS = {
    "transcribe": (
        "transcribe each file",
        "path, text, words (with start_s, end_s, confidence), segments (where it is cut), seconds (of audio), speech",
    ),
    "understand": (
        "classify each file, or extract its intent and slots",
        "path, label, probabilities (or intent, text, slots), seconds (of audio), speech",
    ),
    "embed": ("compute a speaker embedding for each file", "path, embedding (of length 1), seconds (of audio), speech"),
    "features": ("write the frames of an encoder for each file", ""),
}
OTHERS = {
    "listen": (
        "transcribe standard input while it is spoken",
        "Transcribe speech while it is spoken: raw PCM (s16le, 16 kHz, mono) or such a WAV on standard input, a line "
        "on standard output for all that is said between two pauses. Ctrl-C ends it with the last line.",
    ),
    "serve": (
        "transcribe many streams over WebSockets, and a page that records",
        "Serve a page that records and shows the text, and its WebSocket, on this machine (127.0.0.1): binary messages "
        "of raw PCM (s16le, 16 kHz, mono) to /listen, JSON texts back. Ctrl-C ends it.",
    ),
    "export": (
        "write the model as one ONNX file",
        "Write a model as one ONNX file, from 16 kHz waveforms to the outputs of its head, for any batch and length. "
        "Other commands take the file as --model; onnxruntime runs it without mixvec and without torch.",
    ),
}
CHECKOUT = f"""
In an installed checkout also: mixvec pretrain, finetune, {", ".join(TOOLS)}
(as python -m pretrain, python -m tools.inspect, ...), in any folder."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, but for the commands of a checkout."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="mixvec", formatter_class=raw, epilog=EPILOG + "\n" + CHECKOUT,
        description="Use a published model: transcribe speech, classify it, embed its speaker, or take its frames.",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"mixvec {__version__}")
    names = ",".join([*COMMANDS, *OTHERS])
    commands = top.add_subparsers(dest="command", required=True, metavar=f"{{{names}}}")
    for name, (does, fields) in COMMANDS.items():
        command = commands.add_parser(
            name, help=does, description=does.capitalize() + ".", epilog=EPILOG, formatter_class=raw
        )
        command.set_defaults(json=False, srt=False, vtt=False, top=None, text_dir=None, to=None,
                             lm=None, layer="last", skip_done=False, whole=name != "transcribe",
                             no_gate=name == "features")  # fmt: skip
        _add_files(name, fields, command)
    for name, (does, description) in OTHERS.items():
        command = commands.add_parser(name, help=does, description=description)
        add = command.add_argument
        add("--model", required=True, metavar="MODEL", help="model folder, run directory or org/name")
        if name == "export":
            add("--to", required=True, metavar="FILE", help="the file to write, which ends in .onnx")
            add("--int8", action="store_true", help="linear layers in 8 bits: smaller, faster, less exact")
        else:
            _add_stream(name, add)
    return top


def _add_files(name: str, fields: str, command: argparse.ArgumentParser) -> None:
    """The options of a command on files."""
    add = command.add_argument
    add("--model", required=True, metavar="MODEL", help="folder, run directory, org/name or .onnx file")
    add("files", nargs="+", metavar="FILES", help="audio, folders, manifests, URLs, or -")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (the GPU where there is one)")
    add("--channel", default="mean", type=channel, metavar="N", help="of several: mean, loudest, 0, 1, … (mean)")
    if fields:
        add("--json", action="store_true", help=f"one JSON object per line: {fields}")
        add("--no-gate", action="store_true", help="answer for silence too")
    if name == "understand":
        add("--top", type=positive, metavar="N", help="the N likeliest labels, each with its probability")
    if name == "transcribe":
        form = command.add_mutually_exclusive_group()
        form.add_argument("--srt", action="store_true", help="subtitles as SubRip")
        form.add_argument("--vtt", action="store_true", help="subtitles as WebVTT")
        add("--text-dir", metavar="DIR", help="a file for each input in DIR, whose name is printed")
        add("--lm", metavar="FILE.arpa", help="an n-gram, whose words are searched (needs flashlight-text)")
        given = argparse.SUPPRESS
        add("--lm-weight", type=float, default=given, metavar="X", help="of the n-gram's log10 (1.5)")
        add("--word-score", type=float, default=given, metavar="X", help="added for each word (0)")
        add("--beam", type=positive, default=given, metavar="N", help="hypotheses kept (100)")
        add("--whole", action="store_true", help="long recordings in one pass; else they are cut in their pauses")
    if name == "features":
        add("--to", required=True, metavar="DIR", help="a .npy for each input, or FILE.parquet")
        add("--layer", default="last", metavar="N", help="0 (the first's input) to the last, or all (last)")
    if name in ("transcribe", "features"):
        add("--skip-done", action="store_true", help="leave out inputs whose file exists")


def _add_stream(name: str, add: Callable[..., Any]) -> None:
    """The options of ``listen`` and ``serve``."""
    add("--chunk-ms", type=int, default=640, metavar="N",
        help="audio recognised at a time; less answers sooner and errs more (640)")  # fmt: skip
    add("--left-chunks", type=int, metavar="N", help="chunks seen before it (all since the pause)")
    add("--beam", type=int, metavar="N", help="hypotheses of prefix beam search (greedy)")
    add("--silence-s", type=float, default=0.8, metavar="X", help="silence that ends a line (0.8)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (the GPU where there is one)")
    if name == "listen":
        add("--force", action="store_true", help="listen with a model that was not trained for chunks too")
        add("--json", action="store_true", help="one JSON object per line: text, final, start_s, end_s, words")
        add(
            "--partial",
            action="store_true",
            help="lines that are not final too, after a ~; a terminal always shows them",
        )
    else:
        add("--port", type=int, default=8765, metavar="N", help="port (8765); 0: a free one")
        add("--max-clients", type=int, default=64, metavar="N", help="clients at a time (64)")
        add("--max-minutes", type=float, default=60.0, metavar="X", help="length of a session (60)")
        add("--idle-s", type=float, default=60.0, metavar="X", help="without audio, after which it ends")


def channel(text: str) -> str:
    """A channel as ``read_audio`` takes it."""
    if text not in ("mean", "loudest") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not mean, loudest or a number from 0 on")
    return text


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
