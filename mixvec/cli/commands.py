"""What each ``mixvec`` command does, once its options are parsed."""

from __future__ import annotations

import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..errors import UserError
from ..folder import read_json
from ..text import TEXT_STYLES
from .answers import answers
from .inputs import Clip, clips_of
from .outputs import Output
from .predictor import Predictor, device_named, load_predictor


def run_command(args: Namespace) -> None:
    """Run a command on its files; exits with 1 where one could not be used."""
    from ..data.headers import progress_bar

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    alone = len(args.files) == 1 and not os.path.isdir(args.files[0])
    output = Output(args, alone)
    if args.lm is None and (stray := [name for name in ("lm_weight", "word_score", "beam") if name in args]):
        raise UserError(f"--{stray[0].replace('_', '-')} is of the search with an n-gram: give --lm too")
    predictor = load_predictor(args.command, args.model, device_named(args.device), args.layer)
    if args.top is not None and not predictor.labels:
        raise UserError(f"--top {args.top}: {args.model} ranks no labels; leave --top out")
    if args.lm is not None:
        _search_ngram(args, predictor)
    clips = _undone(clips_of(args.files, args.channel), output, args.skip_done)
    progress, failed = progress_bar("answered", " files"), False
    progress.disable = alone or not sys.stderr.isatty() or sys.stdout.isatty()  # only where nothing else is shown
    with output.opened(), progress:
        for answer in answers(clips, predictor, gate=not args.no_gate, cut=not args.whole):
            progress.update(1)
            if isinstance(answer, UserError):
                failed = True
                _note(f"error: {answer}")
                continue
            if not answer.speech:
                _note(f"{answer.clip.name}: no speech in it by its energy; --no-gate answers all the same")
            print(output.write(answer, predictor), flush=True)
    if failed:
        sys.exit(1)


def _search_ngram(args: Namespace, predictor: Predictor) -> None:
    """Let the texts be searched as ``--lm`` asks, with its words normalised as the model's texts were."""
    from ..ngram import load_ngram

    exported = getattr(predictor.encoder, "session", None)
    stored = exported.get_modelmeta().custom_metadata_map["config.json"] if exported else None
    facts = (json.loads(stored) if stored else read_json(predictor.folder / "config.json")).get("training") or {}
    named = next((name for name, text in TEXT_STYLES.items() if text == facts.get("text")), "basic")
    arpa, style = Path(args.lm).expanduser(), facts.get("text.normalise", named)
    ngram, notes = load_ngram(arpa, predictor.folder, predictor.vocabulary, style)
    for note in notes:
        _note(note)
    own = {"lm_weight": 1.5, "word_score": 0.0, "beam": 100} | vars(args)
    predictor.search = partial(ngram.decode, weight=own["lm_weight"], bonus=own["word_score"], beam=own["beam"])


def _note(text: str) -> None:
    """A line on stderr; a file's name may hold a line break."""
    print(" ".join(text.splitlines()), file=sys.stderr, flush=True)


def _undone(clips: Iterator[Clip | UserError], output: Output, skip: bool) -> Iterator[Clip | UserError]:
    """The clips without those whose file exists, where ``skip``; an error for each whose file is another clip's."""
    for clip in clips:
        try:
            place = output.place(clip) if isinstance(clip, Clip) else None
        except UserError as error:
            clip, place = error, None
        if not (skip and place is not None and place.exists()):
            yield clip


def run_export(args: Namespace) -> None:
    """Write the ONNX file and print its size and how close it is."""
    from ..onnx_export import export_onnx  # only now, as it needs onnx

    made = export_onnx(args.model, args.to, int8=args.int8)
    print(f"{args.to}: {made.megabytes:.1f} MB, outputs within {made.difference:.1g} of the model's on noise"
          f"{'; CTC alone, the decoder is left out' if made.without_decoder else ''}")  # fmt: skip


def run_serve(args: Namespace) -> None:
    """Serve until Ctrl-C."""
    import asyncio

    from .listen import listener_of

    try:
        from ..serving import Limits, serve
    except ImportError as error:
        raise UserError(f"mixvec serve needs aiohttp: pip install 'mixvec[serve]' ({error})") from error
    limits = Limits(args.max_clients, 60 * args.max_minutes, args.idle_s)
    asyncio.run(serve(listener_of(args, force=False), limits, args.port))
