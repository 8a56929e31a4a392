"""``mixvec features``: the frames of an encoder's layers, as a ``.npy`` for each clip or one Parquet file."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..atomic import whole_file
from ..errors import UserError
from .answers import Answer
from .inputs import Clip
from .outputs import Files
from .predictor import Predictor

PARQUET = (".parquet", ".pq")


class FrameFiles:
    """Where frames go: ``FOLDER/CLIP.npy`` of (T, D), or (L + 1, T, D) with ``--layer all``; or, where the name ends in
    ``.parquet``, a table whose rows have ``path``, ``layer``, ``frame_s`` and ``frames``. Each is written whole."""

    def __init__(self, to: str, layer: str) -> None:
        """
        Raises:
            UserError: ``to`` cannot be written, or pyarrow is missing.
        """
        self.all, self.layer = layer == "all", layer
        self.table = Path(to) if to.endswith(PARQUET) else None
        self.files = None if self.table else Files(to, ".npy")
        self.stack = ExitStack()
        self.writer: Any = None
        if self.table is not None:
            try:
                import pyarrow.parquet  # noqa: F401
            except ImportError as error:
                raise UserError(f"--to {to}: Parquet needs pyarrow: pip install pyarrow, or name a folder") from error

    def place(self, clip: Clip) -> Path | None:
        """The file for a clip; None where it has none of its own."""
        return None if self.files is None else self.files.place(clip)

    def __enter__(self) -> FrameFiles:
        if self.table is not None:
            self.new = self.stack.enter_context(whole_file(self.table))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()
        elif self.table is not None and kind is None:
            error = UserError(f"{self.table}: not written, as no input has frames")
            self.stack.__exit__(UserError, error, None)
            raise error
        self.stack.__exit__(kind, error, at)

    def add(self, answer: Answer, predictor: Predictor) -> Path | str:
        """Write a clip's frames; the file, or the clip's name where they go into a table."""
        parts = [one.output.numpy() for one in answer.predictions if one.output is not None]
        frames = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0, 0), np.float32)  # (L, T, D)
        if self.files is None:
            self._add_rows(answer.clip, frames, predictor.hop_samples / predictor.sample_rate_hz)
            return answer.clip.name
        file = self.files.place(answer.clip)
        with whole_file(file) as new, new.open("wb") as out:
            np.save(out, frames if self.all else frames[0])
        return file

    def _add_rows(self, clip: Clip, frames: Any, frame_s: float) -> None:
        import pyarrow
        from pyarrow import parquet

        layers = list(range(len(frames))) if self.all else [-1 if self.layer == "last" else int(self.layer)]
        table = pyarrow.table({
            "path": [clip.name] * len(layers),
            "start_s": [clip.span.get("start_s") or 0.0] * len(layers),
            "layer": pyarrow.array(layers, pyarrow.int32()),
            "frame_s": [frame_s] * len(layers),
            "frames": pyarrow.array([list(layer) for layer in frames], pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
        })  # fmt: skip
        if self.writer is None:
            self.writer = parquet.ParquetWriter(self.new, table.schema)
        self.writer.write_table(table)
