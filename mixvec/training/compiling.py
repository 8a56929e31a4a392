"""What a run does to its encoder before the first update: measure kernels, compile blocks, measure normalisation.

Blocks are compiled in place: parameter names stay, and all layers share a graph. Batch and time are dynamic in it, so
it serves every micro-batch; one row alone needs a graph of its own. Both are compiled before the first update.
``TORCH_LOGS=recompiles`` shows any later one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import broadcast

from ..errors import UserError
from ..kernels.select import choose_branches
from ..model.encoder import SpeechEncoder
from ..model.frontend import SAMPLE_RATE_HZ, UNMEASURED_GAIN, FrontEnd
from ..model.noise import Dropout, set_keys
from ..model.padding import padding_mask, zero_padding
from .run import Run

FRAMES_MULTIPLE = 8
"""GPU batches are padded to a multiple of so many frames: rows of 16 bytes in bf16, and a bounded number of shapes."""
ROWS = 4  # rows of the batch that a graph is compiled with; it serves any number from two on
SAMPLE_S = 600.0  # seconds of training audio that the constants of ``encoder.normalise=fixed`` are measured on


def choose_kernels(run: Run, encoder: Any) -> None:
    """Compare and time SummaryMixing's Triton kernel at the run's shape, on a GPU, and report which path is used."""
    data, batch = run.config.data, run.config.batch
    shape = max(1, int(batch.max_s / data.max_s)), encoder.frame_lengths(round(data.max_s * SAMPLE_RATE_HZ))
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    line = choose_branches(encoder, shape, dtypes.get(run.accelerator.mixed_precision, torch.float32))
    if line:
        run.log.print(line)


def start_compiling(run: Run, encoder: Any) -> None:
    """Compile as ``run.compile`` asks; where that fails, a line names the cause and nothing is compiled.

    Encoders of fairseq2 are never compiled.
    """
    asked = run.config.run.compile
    if asked is False or (asked == "auto" and run.accelerator.device.type != "cuda"):
        return
    if not isinstance(encoder, SpeechEncoder):
        return run.log.print(f"run.compile={asked}: encoder.kind=wav2vec2 is never compiled")
    began, training = time.monotonic(), encoder.training
    try:
        for layer in encoder.train().layers:
            layer.compile()  # type: ignore[no-untyped-call]
        with run.accelerator.autocast():
            warm_up(encoder, encoder.frame_lengths(round(run.config.data.max_s * SAMPLE_RATE_HZ)))
        line = f"torch.compile: the encoder's block is compiled, in {time.monotonic() - began:.0f} s"
    except Exception as error:  # compilers raise anything
        for layer in encoder.layers:
            layer._compiled_call_impl = None
        error = getattr(error, "inner_exception", error)  # what a backend raised
        cause = str(error).strip().partition("\n")[0]
        line = f"WARNING torch.compile failed, so nothing is compiled: {type(error).__name__}: {cause[:300]}"
    encoder.train(training)
    run.log.print(line)


def warm_up(encoder: SpeechEncoder, frames: int) -> None:
    """Pass noise forward and backward through a block, for many rows and for one; generators and gradients stay."""
    layer, weight = encoder.layers[0], encoder.norm.weight
    parameters = [p for p in layer.parameters() if p.requires_grad]
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        for rows in (ROWS, 1):
            set_keys(encoder, torch.arange(rows, device=weight.device))
            x = torch.randn(rows, frames, encoder.dim, device=weight.device, dtype=weight.dtype, requires_grad=True)
            valid = padding_mask(torch.full((rows,), frames, device=weight.device), frames)
            hidden = zero_padding(x, valid)  # neither a leaf nor a view, as in training
            for tensor in (hidden, valid):
                torch._dynamo.mark_dynamic(tensor, 1 if rows == 1 else (0, 1))
            for module in layer.modules():
                if rows > 1 and isinstance(module, Dropout) and module.keys is not None:
                    torch._dynamo.mark_dynamic(module.keys, 0)
            torch.autograd.grad(layer(hidden, valid).float().sum(), parameters, allow_unused=True)


def measure_normalisation(run: Run, encoder: Any, sample: Callable[[float], Iterator[Any]]) -> None:
    """Measure the constants of a front end that has none yet, on the main rank, for all; then log it.

    A resumed run and a pretrained encoder keep theirs. ``sample`` gives the micro-batches of so many seconds of audio.

    Raises:
        UserError: that audio is silent.
    """
    front = getattr(encoder, "front_end", None)
    if not isinstance(front, FrontEnd) or not front.fixed or float(front.gain) != UNMEASURED_GAIN:
        return
    device = front.gain.device

    def measure() -> float:
        parts = list(sample(SAMPLE_S))
        try:
            front.measure([(part.batch.waveforms.to(device), part.batch.lengths.to(device)) for part in parts])
        except ValueError as error:
            raise UserError(f"data.train: {error}") from None
        return sum(float(part.seconds) for part in parts)

    seconds = run.on_main(measure)
    for constants in front.buffers(recurse=False):
        broadcast(constants)
    run.log.print(f"encoder.normalise=fixed: constants measured on {seconds / 60:.1f} min of data.train")
