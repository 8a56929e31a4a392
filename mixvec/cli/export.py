"""``mixvec export``: a published model as one ONNX file."""

from __future__ import annotations

import argparse


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the words of ``export`` to those of ``mixvec``."""
    command = commands.add_parser(
        "export",
        help="write the model as one ONNX file",
        description="Write a model as one ONNX file, from 16 kHz waveforms to the outputs of its head, for any batch "
        "and length. Other commands take the file as --model; onnxruntime runs it without mixvec and without torch.",
    )
    command.add_argument("--model", required=True, metavar="MODEL", help="model folder, run directory or org/name")
    command.add_argument("--to", required=True, metavar="FILE", help="the file to write, which ends in .onnx")
    command.add_argument("--int8", action="store_true", help="linear layers in 8 bits: smaller, faster, less exact")


def run_export(args: argparse.Namespace) -> None:
    """Write the file and print its size and how close it is.

    Raises:
        UserError: see ``export_onnx``.
    """
    from ..onnx_export import export_onnx  # only now, as it needs onnx

    made = export_onnx(args.model, args.to, int8=args.int8)
    print(f"{args.to}: {made.megabytes:.1f} MB, outputs within {made.difference:.1g} of the model's on noise"
          f"{'; CTC alone, the decoder is left out' if made.without_decoder else ''}")  # fmt: skip
