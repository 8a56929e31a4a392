"""The processes that decode ahead of training."""

from __future__ import annotations

import signal
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..parent import follow_parent


def data_loader(dataset: Dataset[Any], workers: int, ahead: int, sampler: Any = None) -> DataLoader[Any]:
    """Load the items of ``dataset`` as they are, ``ahead`` of them in each of ``workers`` processes."""
    return DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=workers, prefetch_factor=ahead if workers else None,
        collate_fn=_unchanged, worker_init_fn=start_worker, pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that the run's generator is not advanced
    )  # fmt: skip


def _unchanged(item: Any) -> Any:
    return item


def start_worker(_: int) -> None:
    """Set up a worker process: one thread, killed with its parent, deaf to the signals that the parent handles."""
    torch.set_num_threads(1)
    follow_parent(signal.SIGKILL)  # else it keeps a killed rank's sockets open for seconds
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the training process handles them, and ends its workers
