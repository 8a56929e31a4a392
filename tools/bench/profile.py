"""Where an update's time goes: forward and backward of each part of the model, clipping and AdamW.

The parts are measured by hooks around modules, on CUDA by events on the stream, so nothing is synchronised within an
update. The objective is all that comes after the encoder's last LayerNorm. What belongs to no part (residuals, masks,
the other LayerNorms, the backward of the front end, whose input takes no gradient) is the rest.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from mixvec.model.blocks import ConvGating, ConvModule, FeedForward
from mixvec.model.frontend import MelFrontEnd, WaveformFrontEnd
from mixvec.model.mixing import SelfAttention, SummaryMixing

from . import ours
from .cases import Case, Work
from .child import timed, warm_up
from .work import precision

FRONT_END = "front end"
PARTS: dict[str, tuple[type[nn.Module], ...]] = {
    FRONT_END: (MelFrontEnd, WaveformFrontEnd),
    "feed-forward": (FeedForward,),
    "mixer": (SummaryMixing, SelfAttention),
    "convolution": (ConvModule, ConvGating),
}
OBJECTIVE, OPTIMIZER, REST = "objective", "clipping and AdamW", "rest"
Mark = Any
"""A point in time: seconds, or an event on the device's stream."""


@dataclass(frozen=True)
class Share:
    """A part of an update: the median over updates of its seconds, forward and backward."""

    part: str
    forward_s: float
    backward_s: float


class Stopwatch:
    """Marks around the forward and the backward of modules."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.spans: list[tuple[str, Mark, Mark]] = []
        self._open: dict[tuple[str, int], Mark] = {}

    def mark(self) -> Mark:
        if self.device != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def watch(self, module: nn.Module, part: str) -> None:
        """Count what ``module`` takes, forward and backward, to ``part``."""
        forward, backward = (f"{part} forward", id(module)), (f"{part} backward", id(module))
        module.register_forward_pre_hook(lambda *_: self.begin(forward))
        module.register_forward_hook(lambda *_: self.end(forward))
        if part != FRONT_END:
            module.register_full_backward_pre_hook(lambda *_: self.begin(backward))
            module.register_full_backward_hook(lambda *_: self.end(backward))

    def begin(self, key: tuple[str, int]) -> None:
        self._open[key] = self.mark()

    def end(self, key: tuple[str, int]) -> None:
        if key in self._open:
            self.spans.append((key[0], self._open.pop(key), self.mark()))

    def seconds(self) -> Counter[str]:
        """What has been counted since the last call, by name."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        found: Counter[str] = Counter()
        for name, begin, end in self.spans:
            found[name] += begin.elapsed_time(end) / 1e3 if self.device == "cuda" else end - begin
        self.spans.clear()
        return found


def profile(case: Case, variant: str, repeats: int) -> tuple[float, list[Share]]:
    """Seconds of all of the case's updates with ours or the twin, and their parts, the largest first."""
    watch = Stopwatch(case.device)
    model, batches = ours.training(case, variant)
    for part, kinds in PARTS.items():
        for module in model.modules():
            if isinstance(module, kinds):
                watch.watch(module, part)
    last: nn.Module = model.encoder.norm  # type: ignore[assignment]
    forward, backward, update = ((name, 0) for name in (f"{OBJECTIVE} forward", f"{OBJECTIVE} backward", OPTIMIZER))
    last.register_forward_hook(lambda *_: watch.begin(forward))
    last.register_full_backward_pre_hook(lambda *_: watch.end(backward))
    optimizer = AdamW(model.parameters(), 1e-5, weight_decay=0.05, fused=True if case.device == "cuda" else None)

    def step() -> None:
        for given in batches:
            with precision(case):
                loss = model(*given, 2.0).loss
            watch.end(forward)
            watch.begin(backward)
            loss.backward()
            watch.begin(update)
            nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.end(update)

    work = Work(step)
    warm_up(work, case)
    watch.seconds()
    totals, found = [], []
    for _ in range(repeats):
        totals.append(timed(work, case.device, 1))
        found.append(watch.seconds())
    middle = {name: median(one[name] for one in found) for name in found[0]}
    shares = [
        Share(part, middle.get(f"{part} forward", 0.0), middle.get(f"{part} backward", 0.0))
        for part in (*PARTS, OBJECTIVE)
    ]
    shares.append(Share(OPTIMIZER, middle[OPTIMIZER], 0.0))
    rest = median(totals) - sum(share.forward_s + share.backward_s for share in shares)
    shares.append(Share(REST, max(0.0, rest), 0.0))
    return median(totals), sorted(shares, key=lambda share: -(share.forward_s + share.backward_s))


def table(case: Case, system: str, total_s: float, shares: list[Share]) -> str:
    """The profile as Markdown."""
    lines = [f"{case.name}, {system}: {total_s:.4g} s for {case.audio_s:g} s of audio", "",
             "| part | forward, s | backward, s | share |", "| --- | --- | --- | --- |"]  # fmt: skip
    for share in shares:
        both = share.forward_s + share.backward_s
        apart = (f"{share.forward_s:.3g}", f"{share.backward_s:.3g}") if share.backward_s else (f"{both:.3g}", "")
        lines.append(f"| {share.part} | {apart[0]} | {apart[1]} | {both / total_s:.1%} |")
    return "\n".join(lines)
