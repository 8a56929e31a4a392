"""torch.compile of the encoder's repeated block, in place: names in the state dict stay, and all layers share a graph.

Batch and time are symbols in it, so it holds for every micro-batch; one row alone is a graph of its own. Both are made
before the first update, and one that is made after that is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixvec import SpeechEncoder

from ..model.frontend import SAMPLE_RATE_HZ
from ..model.padding import padding_mask, zero_padding

if TYPE_CHECKING:
    from .run import Run

FRAMES_MULTIPLE = 8
"""Of the padded length of batches for a GPU: rows of 16 bytes in bf16, and a bounded number of shapes."""
ROWS = 4
"""In the batch that a graph is made for. It serves any other, but what it is best for is taken from this one."""


class GraphCounter:
    """The compiler of ``backend``, counting what it is given; once ``warm``, each further graph is told."""

    def __init__(self, tell: Callable[[str], None], backend: str = "inductor") -> None:
        self.tell, self.graphs, self.warm = tell, 0, False
        self._compile: Any = torch._dynamo.lookup_backend(backend)

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs += 1
        if self.warm:
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs if isinstance(t, Tensor) and t.dim() < 4)
            self.tell(f"WARNING compiled-in-mid-run: graph {self.graphs} of the encoder's block, which takes its time; "
                      f"its inputs: {shapes[:200]}")  # fmt: skip
        return self._compile(graph, inputs)


def compile_blocks(encoder: SpeechEncoder, counter: GraphCounter) -> None:
    """Let ``counter`` compile the blocks when they are first called, which ``warm_up`` does."""
    for layer in encoder.layers:
        layer.compile(backend=counter)


def uncompile_blocks(encoder: SpeechEncoder) -> None:
    """Undo ``compile_blocks``."""
    for layer in encoder.layers:
        layer._compiled_call_impl = None


def warm_up(encoder: SpeechEncoder, frames: int, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
    """Forward and backward of noise through a block, for many rows and for one; generators and gradients stay.

    Args:
        frames: of each row.
        autocast: a context with the precision of training.
    """
    layer, weight = encoder.layers[0], encoder.norm.weight
    parameters = [p for p in layer.parameters() if p.requires_grad]
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        for rows in (ROWS, 1):
            x = torch.randn(rows, frames, encoder.dim, device=weight.device, dtype=weight.dtype, requires_grad=True)
            real = padding_mask(torch.full((rows,), frames, device=weight.device), frames)
            hidden = zero_padding(x, real)  # no leaf and no view, as in training
            for tensor in (hidden, real):
                torch._dynamo.mark_dynamic(tensor, 1 if rows == 1 else (0, 1))
            with autocast():
                hidden = layer(hidden, real)
            torch.autograd.grad(hidden.float().sum(), parameters, allow_unused=True)


def start_compiling(run: Run, encoder: Any) -> None:
    """Compile as ``run.compile`` asks; where it fails, a line names the cause and nothing is compiled.

    fairseq2's encoder is left as it is.
    """
    config, asked = run.config, run.config.run.compile
    if not (asked is True or (asked == "auto" and run.accelerator.device.type == "cuda")):
        return
    if not isinstance(encoder, SpeechEncoder):
        return run.say(f"run.compile={asked}: encoder.kind=wav2vec2 is never compiled")
    began, counter, training = time.monotonic(), GraphCounter(run.say), encoder.training
    try:
        compile_blocks(encoder.train(), counter)
        warm_up(encoder, encoder.frame_lengths(round(config.data.max_s * SAMPLE_RATE_HZ)), run.accelerator.autocast)
    except Exception as error:  # the compilers behind it raise anything
        uncompile_blocks(encoder)
        error = getattr(error, "inner_exception", error)  # what a backend raised
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return run.say(f"WARNING torch.compile failed, so nothing is compiled: {type(error).__name__}: {cause[:300]}")
    finally:
        encoder.train(training)
    counter.warm = True
    run.say(f"torch.compile: {counter.graphs} graphs of the encoder's block in {time.monotonic() - began:.0f} s")
