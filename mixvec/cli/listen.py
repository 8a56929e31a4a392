"""``mixvec listen``: speech from standard input, its text while it is spoken."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import sys
import wave
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ..listening import Listener, Result

BLOCK_BYTES = 3200  # 100 ms
HEAD_BYTES = 1 << 20
"""How far the samples of a WAV are searched for: a recorder may put notes or padding before them."""
UNKNOWN_BYTES = 0x7FFF0000
"""Who streams a WAV writes 0 or something near the largest number for its length."""
EXTENSIBLE = re.compile(rb"(fmt .{4})\xfe\xff(.{22}\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71)", re.DOTALL)
"""PCM in the extensible format, which ``wave`` reads from Python 3.12 on."""
OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"RF64": "RF64", b"FORM": "AIFF", b"\x1aE\xdf\xa3": "WebM"}
FFMPEG = "pipe it through `ffmpeg -i FILE -f s16le -ar 16000 -ac 1 -`"
INPUT = "standard input"


def listener_of(args: argparse.Namespace, force: bool) -> Listener:
    """The model and the options of ``listen`` and ``serve``."""
    from ..hub import load_model
    from ..listening import ListenConfig, Listener, streaming_model
    from .predictor import device_named

    config = ListenConfig(args.chunk_ms, args.left_chunks, args.beam, args.silence_s)
    if args.model.endswith(".onnx"):
        raise UserError(f"{args.model}: an ONNX file cannot stream; give the model folder")
    return Listener(streaming_model(load_model(args.model), args.model, force), config, device_named(args.device))


def run_listen(args: argparse.Namespace) -> None:
    """Print what is said on standard input; where that is not what the model takes, all that was said before."""
    listener = listener_of(args, args.force)
    if sys.stdin.isatty():
        raise UserError(f"{INPUT} is a terminal; pipe audio into it, as in: arecord -t raw -f S16_LE -r 16000 | mixvec "
                        "listen --model MODEL")  # fmt: skip
    faults: list[UserError] = []
    samples = _until_fault(pcm_samples(input_until_signal(), listener.rate_hz), faults)
    for result in listener.listen(samples if listener.measured else _measuring(samples, listener)):
        _show(result, args.json, args.partial)
    if faults:
        raise faults[0]


def _until_fault(samples: Iterator[Tensor], faults: list[UserError]) -> Iterator[Tensor]:
    """The samples before a fault, so that all that was said is printed; then the fault is in ``faults``."""
    try:
        yield from samples
    except UserError as error:
        faults.append(error)


def _measuring(samples: Iterator[Tensor], listener: Listener) -> Iterator[Tensor]:
    """The same samples, once the first seconds that are not silence have given the constants of normalise=fixed."""
    import torch

    from ..listening import MEASURE_S

    waiting: list[Tensor] = []
    for block in samples:
        waiting.append(block)
        if sum(map(len, waiting)) >= MEASURE_S * listener.rate_hz and torch.cat(waiting).any():
            break
    if waiting and torch.cat(waiting).any():
        listener.measure(torch.cat(waiting))
    yield from waiting
    yield from samples


def _show(result: Result, as_json: bool, partial: bool) -> None:
    terminal = sys.stdout.isatty() and not as_json
    if not (result.final or partial or terminal):
        return
    if as_json:
        print(json.dumps(result.plain(), ensure_ascii=False), flush=True)
    elif terminal:
        width = shutil.get_terminal_size().columns - 1
        text = result.text if result.final else result.text[-width:]
        print(f"\r\033[K{text}", end="\n" if result.final else "", flush=True)
    else:
        print(result.text if result.final else f"~ {result.text}", flush=True)


def input_until_signal() -> Iterator[bytes]:
    """Standard input, which Ctrl-C and SIGTERM end: a read that waits finds its end. Then a signal acts as before."""

    def end(*_: object) -> None:
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield from iter(partial(sys.stdin.buffer.read, BLOCK_BYTES), b"")
    finally:
        restore()


def pcm_samples(blocks: Iterable[bytes], rate_hz: int) -> Iterator[Tensor]:
    """Raw s16le PCM, or a WAV of it, as blocks of samples (S,) in ±1.

    Raises:
        UserError: there is no audio; or it is text, another format, another rate, or ends within a sample.
    """
    import numpy as np
    import torch

    source, head, chunk = iter(blocks), b"", 12
    while len(head) < max(BLOCK_BYTES, chunk + 8) <= HEAD_BYTES and (block := next(source, b"")):
        head += block
        while head[:4] + head[8:12] == b"RIFFWAVE" and chunk + 8 <= len(head) and head[chunk : chunk + 4] != b"data":
            size = int.from_bytes(head[chunk + 4 : chunk + 8], "little")
            chunk += 8 + size + size % 2
    start, left = _data_of(head, rate_hz)
    half, count = b"", 0
    for block in chain([head[start:]], source):
        data, left = half + block[:left], left - len(block[:left])
        whole = len(data) // 2 * 2
        half, count = data[whole:], count + whole
        yield torch.from_numpy(np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768)
        if not left:
            break
    if half:
        raise UserError(f"{INPUT}: {count + 1} bytes of audio, an odd number, and a sample has two (s16le): it is cut "
                        "off, or of another format")  # fmt: skip
    if not count:
        raise UserError(f"{INPUT}: no audio in it")


def _data_of(head: bytes, rate_hz: int) -> tuple[int, int]:
    """Where samples begin, and how many bytes they are; of raw PCM all."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav_data(head, rate_hz)
    for magic, name in OTHERS.items():
        if head.startswith(magic):
            raise UserError(f"{INPUT}: {name}, and raw PCM (s16le) or WAV is needed: {FFMPEG}")
    text = head.decode("utf-8", "ignore")
    if len(text.encode()) >= max(1, len(head) - 3) and all(c.isprintable() or c.isspace() for c in text):
        raise UserError(f"{INPUT}: text ({text[:20]!r}), and raw PCM (s16le) or WAV is needed: {FFMPEG}")
    return 0, sys.maxsize


def _wav_data(head: bytes, rate_hz: int) -> tuple[int, int]:
    """The same of a WAV, whose first bytes are ``head``. Its size may be missing, its format written as extensible."""
    file = io.BytesIO(head[:4] + b"\xff" * 4 + EXTENSIBLE.sub(b"\\1\1\0\\2", head[8:], 1))
    try:
        with wave.open(file) as opened:
            form = opened.getparams()
    except (wave.Error, EOFError, RuntimeError) as error:  # the last for a chunk of 2^32 - 1 bytes
        known = str(error) if file.tell() < len(head) else ""
        what = f"that is no PCM ({known})" if known else f"without samples in its first {len(head)} bytes"
        raise UserError(f"{INPUT}: a WAV {what}: {FFMPEG}") from error
    if (form.nchannels, form.framerate, form.sampwidth) != (1, rate_hz, 2):
        raise UserError(f"{INPUT}: a WAV of {form.framerate} Hz, {form.nchannels} channels and {8 * form.sampwidth} "
                        f"bits, and the model takes {rate_hz} Hz, mono, 16 bits (PCM): {FFMPEG}")  # fmt: skip
    size = 2 * form.nframes
    return file.tell(), sys.maxsize if size == 0 or size >= UNKNOWN_BYTES else size
