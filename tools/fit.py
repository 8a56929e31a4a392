"""The largest batch.max_s that the memory takes, found before a pretraining starts.

    python -m tools.fit configs/base.yaml data.max_s=20

The keys are those of python -m pretrain, and no audio is needed. What is tried is an update of noise, in utterances of
data.max_s and of data.min_s, with all that is in memory at the time: gradients, AdamW's moments, the update's other
micro-batches. On a GPU batches grow until one does not fit. On a CPU two are measured, each in a process of its own,
and the rest is a straight line. A tenth of the free memory is left over.
"""

from __future__ import annotations

import argparse
import gc
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.optim import AdamW

from mixvec.data.batches import Clip
from mixvec.data.utterances import Utterance
from mixvec.errors import UserError, run_cli
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training.config import load_config
from mixvec.training.device import start_accelerator
from mixvec.training.faults import is_out_of_memory
from pretrain.config import PretrainConfig
from pretrain.objectives.contrastive import MaskedBatch, MaskedPrediction, Totals, collate_masked
from tools.bench.memory import MB, Meter, free_bytes

SHARE = 0.9
"""Of the free memory, what may be taken."""
PRECISION = 0.03
GROWTH = 3
"""The second size that is measured on a CPU, over the first."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("keys", metavar="CONFIG.yaml | key=value", nargs="+", help="as python -m pretrain takes them")
    parser.add_argument("--measure", metavar="SECONDS", type=float, help="only this size, and print the MB it took")
    args = parser.parse_args()
    config = load_config(PretrainConfig, args.keys, __doc__ or "")
    if args.measure is not None:
        trial, meter = Trial(config), Meter("cpu")
        meter.restart()  # what was needed to import and to build is not what an update needs
        trial.update(args.measure)
        print(meter.base / MB + meter.peak_mb())
        return
    least, most = config.data.max_s, max(config.batch.update_s, config.data.max_s)
    if torch.cuda.is_available():
        found = largest(on_gpu(config), least, most)
    else:
        found = largest_on_line(lambda seconds: measured(args.keys, seconds), free_bytes() / MB, least, most)
    if found is None:
        raise UserError(f"not one utterance of data.max_s={least:g} s fits: lower data.max_s, set "
                        "encoder.checkpointing=true, or take a smaller size")  # fmt: skip
    whole = ": a whole update at once" if found == most else ""
    found = most if whole else max(math.floor(found), least)
    print(f"batch.max_s={found:g} is the largest that fits{whole}; now {config.batch.max_s:g}")


def largest(fits: Callable[[float], bool], least: float, most: float) -> float | None:
    """The most seconds that fit, from ``least`` up to ``most``, to 3 % or a second; None where ``least`` does not.

    Args:
        fits: whether so many seconds do. Where it says no it is asked for fewer, never for more.
    """
    if not fits(least):
        return None
    low, high = least, most
    while low < most:
        high = min(2 * low, most)
        if not fits(high):
            break
        low = high
    while high - low > max(1.0, PRECISION * low):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_on_line(measure: Callable[[float], float], free_mb: float, least: float, most: float) -> float | None:
    """The same where memory grows in a straight line from what ``measure`` gives, in MB, at two sizes."""
    small_s, large_s = least, GROWTH * least
    small_mb, large_mb = measure(small_s), measure(large_s)
    each_mb = max((large_mb - small_mb) / (large_s - small_s), 1e-3)
    print(f"{small_s:g} s take {small_mb:.0f} MB and {large_s:g} s {large_mb:.0f} MB, {each_mb:.1f} MB a second; "
          f"{free_mb:.0f} MB are free")  # fmt: skip
    found = small_s + (SHARE * free_mb - small_mb) / each_mb
    return None if found < least else min(found, most)


def measured(keys: list[str], seconds: float) -> float:
    """The most MB that a process of its own held while it did an update of that size.

    Raises:
        UserError: it failed, in its own words.
    """
    words = [sys.executable, "-m", "tools.fit", *keys, "--measure", str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"killed with {seconds:g} s (code {done.returncode})"]
        raise UserError(said[-1].removeprefix("error: "))
    return float(done.stdout.split()[-1])


def on_gpu(config: PretrainConfig) -> Callable[[float], bool]:
    """Whether an update fits into this share of what is free on the GPU."""
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(SHARE * free / total)
    print(f"{torch.cuda.get_device_name()}: {free / MB:.0f} of {total / MB:.0f} MB are free")
    trial = Trial(config)

    def fits(seconds: float) -> bool:
        found = trial.fits(seconds)
        print(f"  {seconds:.0f} s {'fit' if found else 'do not fit'}", flush=True)
        return found

    return fits


class Trial:
    """A model in training, and updates of any size for it."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.accelerator = config, start_accelerator(config.run)
        objective = MaskedPrediction(replace(config.encoder, layer_drop=0.0), config.objective)
        self.model, self.optimizer = self.accelerator.prepare(objective, AdamW(objective.parameters()))
        self.frame_lengths = objective.encoder.frame_lengths
        self.model.train()
        self.update(0.0)  # which makes AdamW's moments

    def fits(self, seconds: float) -> bool:
        """Whether an update of such batches goes through; where it does not, its memory is given back."""
        try:
            self.update(seconds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            self.optimizer.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
        return True

    def update(self, seconds: float) -> None:
        """Batches of at most ``seconds``, of the longest and of the shortest utterances, and a step."""
        data = self.config.data
        shortest_s = max(data.min_s, min(1.0, data.max_s))
        one = torch.ones((), device=self.accelerator.device)
        waiting = math.ceil(self.config.batch.update_s / seconds) - 1 if seconds else 0
        others = [self.batch(seconds, data.max_s) for _ in range(waiting)]
        for size_s, each_s in ((0.0, shortest_s), (seconds, data.max_s), (seconds, shortest_s)):
            batch = self.batch(size_s, each_s)  # the first leaves gradients, as when batches are accumulated
            self.accelerator.backward(self.model(batch, Totals(one, one, None), 1.0).loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        del others

    def batch(self, seconds: float, each_s: float) -> MaskedBatch:
        """Noise in utterances of ``each_s`` seconds, as many as ``seconds`` hold."""
        noise = torch.randn(round(each_s * SAMPLE_RATE_HZ))
        count = max(1, int(seconds / each_s))
        clips = [Clip(Utterance("noise", each_s), noise, np.random.default_rng(i)) for i in range(count)]
        batch = collate_masked(clips, self.config.objective, self.frame_lengths)
        return MaskedBatch(*(tensor.to(self.accelerator.device) for tensor in batch))


if __name__ == "__main__":
    run_cli(main)
