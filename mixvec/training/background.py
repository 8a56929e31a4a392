"""Writing while training goes on: each thing after the one before it, in threads that end when it is written."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from torch import Tensor

NAME = "mixvec-background"
"""Of the threads."""
MOST = 2
"""Things under way at a time: a checkpoint and the model that goes with it. More would fill the memory."""


class Background:
    """Work that is done in order behind the training's back. A process that ends waits for it, unless it is killed."""

    def __init__(self) -> None:
        self._threads: list[Thread] = []
        self._error: BaseException | None = None

    def add(self, work: Callable[[], object]) -> None:
        """Let ``work`` be done after all that was added before, and not at all where any of that failed."""
        before = self._threads[-1] if self._threads else None
        self._threads.append(Thread(target=self._do, args=(before, work), name=NAME))
        self._threads[-1].start()

    def wait(self, left: int = 0) -> None:
        """Wait until no more than ``left`` things are under way, and raise what went wrong in any of them."""
        while len(self._threads) > left:
            self._threads.pop(0).join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def check(self) -> None:
        """Raise what has gone wrong, without waiting."""
        self.wait(left=len(self._threads))

    def _do(self, before: Thread | None, work: Callable[[], object]) -> None:
        if before is not None:
            before.join()
        if self._error is None:
            try:
                work()
            except BaseException as error:  # whatever it is, it is raised where the training runs
                self._error = error


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, on the CPU, whatever is done to them later."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
