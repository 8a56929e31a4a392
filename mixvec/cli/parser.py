"""The words of the ``mixvec`` command."""

from __future__ import annotations

import argparse

from ..version import __version__
from .checkout import TOOLS
from .export import add_export
from .listen import add_listen
from .serve import add_serve

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
CHECKOUT = f"""
In an installed checkout also: mixvec pretrain, finetune, {", ".join(TOOLS)}
(as python -m pretrain, python -m tools.inspect, ...), in any folder."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, but for the commands of a checkout."""
    top = argparse.ArgumentParser(
        prog="mixvec",
        description="Use a published model: transcribe speech, classify it, embed its speaker, or take its frames.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG + "\n" + CHECKOUT,
    )
    top.add_argument("--version", action="version", version=f"mixvec {__version__}")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="{transcribe,understand,embed,features,listen,serve,export}"
    )  # fmt: skip
    for name, (does, fields) in COMMANDS.items():
        command = commands.add_parser(
            name, help=does, description=does.capitalize() + ".", epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_argument(
            "--model", required=True, metavar="MODEL", help="folder, run directory, org/name or .onnx file"
        )
        command.add_argument("files", nargs="+", metavar="FILES", help="audio, folders, manifests, URLs, or -")
        command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (the GPU where there is one)")
        command.add_argument(
            "--channel", default="mean", type=channel, metavar="N", help="of several: mean, loudest, 0, 1, … (mean)"
        )
        command.set_defaults(json=False, srt=False, vtt=False, top=None, text_dir=None, layer="last", skip_done=False,
                             whole=name != "transcribe", no_gate=name == "features")  # fmt: skip
        if fields:
            command.add_argument("--json", action="store_true", help=f"one JSON object per line: {fields}")
            command.add_argument("--no-gate", action="store_true", help="answer for silence too")
        _own(name, command)
    add_listen(commands)
    add_serve(commands)
    add_export(commands)
    return top


def _own(name: str, command: argparse.ArgumentParser) -> None:
    """The options of one command alone."""
    if name == "understand":
        command.add_argument(
            "--top", type=positive, metavar="N", help="the N likeliest labels, each with its probability"
        )
    if name == "transcribe":
        form = command.add_mutually_exclusive_group()
        form.add_argument("--srt", action="store_true", help="subtitles as SubRip")
        form.add_argument("--vtt", action="store_true", help="subtitles as WebVTT")
        command.add_argument("--text-dir", metavar="DIR", help="a file for each input in DIR, whose name is printed")
        command.add_argument(
            "--whole", action="store_true", help="long recordings in one pass; else they are cut in their pauses"
        )
    if name == "features":
        command.add_argument("--to", required=True, metavar="DIR", help="a .npy for each input, or FILE.parquet")
        command.add_argument(
            "--layer", default="last", metavar="N", help="0 (the first's input) to the last, or all (last)"
        )
    if name in ("transcribe", "features"):
        command.add_argument("--skip-done", action="store_true", help="leave out inputs whose file exists")


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
