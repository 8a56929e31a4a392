"""The words of the ``mixvec`` command."""

from __future__ import annotations

import argparse

from ..version import __version__
from .export import add_export
from .listen import add_listen

EPILOG = """\
MODEL is a model folder, a run directory, org/name[@revision] on the hub, or an .onnx file of `mixvec export`. FILES are
audio (any rate, any channels), folders of it, manifests and every other form of data that mixvec reads, URLs (https://,
hf://, s3://, ...), or - for standard input. For one file the answer is printed alone; for several, each line is the
file, a tab and the answer. A file that cannot be read is reported on stderr, the others are processed, the exit code
is 1. Audio shorter than the model's shortest input is padded with silence."""
COMMANDS = {
    "transcribe": ("transcribe each file", "path, text, seconds (of audio), speech"),
    "understand": (
        "classify each file, or extract its intent and slots",
        "path, label, probabilities (or intent, text, slots), seconds (of audio), speech",
    ),
    "embed": ("compute a speaker embedding for each file", "path, embedding (of length 1), seconds (of audio), speech"),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="mixvec",
        description="Use a published model: transcribe speech, classify it or embed its speaker.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=f"mixvec {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="{transcribe,understand,embed,listen,export}")
    for name, (does, fields) in COMMANDS.items():
        command = commands.add_parser(
            name, help=does, description=does.capitalize() + ".", epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_argument(
            "--model", required=True, metavar="MODEL", help="folder, run directory, org/name or .onnx file"
        )
        command.add_argument("files", nargs="+", metavar="FILES", help="audio, folders, manifests, URLs, or -")
        command.add_argument("--json", action="store_true", help=f"one JSON object per line: {fields}")
        command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (the GPU where there is one)")
        command.add_argument("--no-gate", action="store_true", help="answer for silence too")
        command.set_defaults(top=None, whole=True)
        if name == "understand":
            command.add_argument(
                "--top", type=positive, metavar="N", help="the N likeliest labels, each with its probability"
            )
        if name == "transcribe":
            command.add_argument(
                "--whole", action="store_true", default=False,
                help="long recordings in one pass; without it they are cut in their pauses",
            )  # fmt: skip
    add_listen(commands)
    add_export(commands)
    return top


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
