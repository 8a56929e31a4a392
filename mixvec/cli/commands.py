"""What each ``mixvec`` command does with its files."""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from ..errors import UserError
from .answers import answers
from .features import FrameFiles
from .inputs import Clip, clips_of
from .outputs import Files, answer_of, formatted
from .predictor import device_named, load_predictor


def run_command(args: Namespace) -> None:
    """Run a command on its files; exits with 1 where one could not be used.

    Raises:
        UserError: the model or an option cannot be used.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    alone = len(args.files) == 1 and not os.path.isdir(args.files[0])
    files = _files(args, alone)
    predictor = load_predictor(args.command, args.model, device_named(args.device), args.layer)
    if args.top is not None and not predictor.labels:
        raise UserError(f"--top {args.top}: {args.model} ranks no labels; leave --top out")
    clips = _undone(clips_of(args.files, args.channel), files, args.skip_done)
    failed = False
    with files if isinstance(files, FrameFiles) else nullcontext(), _progress(args, alone) as progress:
        for answer in answers(clips, predictor, gate=not args.no_gate, cut=not args.whole):
            progress.update(1)
            if isinstance(answer, UserError):
                failed = True
                print(" ".join(f"error: {answer}".splitlines()), file=sys.stderr, flush=True)
                continue
            if not answer.speech:
                note = f"{answer.clip.name}: no speech in it by its energy; --no-gate answers all the same"
                print(" ".join(note.splitlines()), file=sys.stderr, flush=True)
            if isinstance(files, FrameFiles):
                line = str(files.add(answer, predictor))
            elif files is not None:
                line = str(
                    files.write(answer.clip, formatted(answer_of(answer, predictor, args), answer.clip.name, args))
                )
            else:
                line = formatted(answer_of(answer, predictor, args), answer.clip.name, args)
                line = line if alone or args.json else f"{answer.clip.name}\t{line}"
            print(line, flush=True)
    if failed:
        sys.exit(1)


def _files(args: Namespace, alone: bool) -> Files | FrameFiles | None:
    """Where output goes if not to stdout.

    Raises:
        UserError: an option needs ``--text-dir``.
    """
    if args.command == "features":
        return FrameFiles(args.to, args.layer)
    form = "json" if args.json else "srt" if args.srt else "vtt" if args.vtt else "txt"
    if args.text_dir is not None:
        return Files(args.text_dir, f".{form}")
    if args.skip_done:
        raise UserError("--skip-done looks for the files that --text-dir DIR writes; give that too")
    if form in ("srt", "vtt") and not alone:
        raise UserError(f"--{form} of several files needs --text-dir DIR, where each has a file of its own")
    return None


def _undone(
    clips: Iterator[Clip | UserError], files: Files | FrameFiles | None, skip: bool
) -> Iterator[Clip | UserError]:
    """The clips without those whose file exists, where ``skip``; an error for each whose file is another clip's."""
    for clip in clips:
        if isinstance(clip, Clip) and files is not None:
            try:
                place = files.place(clip)
                if skip and place is not None and place.exists():
                    continue
            except UserError as error:
                clip = error
        yield clip


def _progress(args: Namespace, alone: bool) -> Any:
    """A progress bar on a terminal that shows nothing else."""
    from ..data.headers import progress_bar

    bar = progress_bar("answered", " files")
    bar.disable = alone or not sys.stderr.isatty() or sys.stdout.isatty()
    return bar
