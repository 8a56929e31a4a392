"""The device, the ranks and the precision of a run."""

from __future__ import annotations

import ctypes
import os
import time
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from ..errors import UserError
from .config import RunConfig

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def leave_process_group() -> None:
    """Leave the process group at the end of a run, without waiting for its threads.

    When the last reference to a Gloo group goes, it joins its threads while holding the interpreter's lock, for which
    a thread that frees the tensors of the last collective may be waiting: the process would hang. So the threads get
    time to free them, and the group itself is never freed.
    """
    group = torch.distributed.group.WORLD
    time.sleep(0.05)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
    torch.distributed.destroy_process_group()


def start_accelerator(run: RunConfig) -> Accelerator:
    """The device, the ranks and the precision.

    Products of fp32 numbers stay in fp32 on a GPU (TF32 is torch's default for convolutions alone): under bf16 they are
    the spectrogram, the quantizer and the similarities of the loss, some 1 % of the work, and want the digits.

    Raises:
        UserError: fp16 without a GPU, or a torchrun whose restarts would fail.
    """
    restarts, store = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    if restarts != "0" and store == "True":  # github.com/pytorch/pytorch/issues/135712
        raise UserError(
            "torchrun --max-restarts keeps the addresses of dead ranks, and the new ones fail on them: run it as "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --max-restarts ... (several machines: "
            "--rdzv-backend=c10d)"
        )
    gpu = torch.cuda.is_available()
    precision = run.precision
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if precision == "fp16" and not gpu:
        raise UserError("run.precision=fp16 needs a GPU; use fp32 or bf16 here")
    torch.manual_seed(run.seed)
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=run.timeout_s))
    return Accelerator(mixed_precision=PRECISIONS[precision], cpu=not gpu, kwargs_handlers=[patience])
