"""A model out of an ONNX file that ``mixvec export`` wrote: the classes of ``mixvec``, computed by onnxruntime.

Symbols: B batch, S samples, T frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .build import build_encoder
from .errors import UserError
from .hub import FORMAT, encoder_config_of
from .model import HEADS
from .model.protocol import Encoder, EncoderOutput
from .model.task_model import TaskModel
from .model.vocabulary import MalformedError
from .model.waveforms import Waveforms, batch_of


class OnnxEncoder(Encoder):
    """The whole graph in an encoder's place: ``frames`` are the graph's first output, the head's where it has one."""

    def __init__(self, session: Any, own: Encoder) -> None:
        """``own`` is the encoder that the file was exported from, without its weights."""
        super().__init__()
        self.session = session
        self.dim, self.feature_dim, self.num_layers, self.heads = own.dim, own.feature_dim, own.num_layers, own.heads
        self.hop_samples, self.mel_view = own.hop_samples, own.mel_view
        self.frame_lengths, self.settings = own.frame_lengths, own.settings  # type: ignore[method-assign]

    def forward(
        self, waveforms: Waveforms, lengths: Tensor | None = None, *, every_layer: bool = True,
        sampling_rate: int | None = None,
    ) -> EncoderOutput:  # fmt: skip
        """Waveforms (B, S) at 16 kHz and lengths (B,) to the graph's outputs."""
        batch, lengths = batch_of(waveforms, lengths, sampling_rate)
        self.check_batch(batch, lengths)
        if lengths is None:
            lengths = torch.full(batch.shape[:1], batch.shape[1])
        given = {"waveforms": batch.cpu().numpy().astype(np.float32), "lengths": lengths.cpu().numpy()}
        made = [torch.from_numpy(array) for array in self.session.run(None, given)]
        return EncoderOutput(made[0], made[1] if len(made) > 1 else lengths, [made[0]])


def load_onnx(file: str | Path) -> OnnxEncoder | TaskModel:
    """The model that ``mixvec export`` wrote to ``file``, in eval mode on the CPU.

    Raises:
        UserError: onnxruntime is not installed, there is no such file, or it is not one of ours.
    """
    session = open_session(Path(file))
    stored = session.get_modelmeta().custom_metadata_map
    try:
        config = json.loads(stored["config.json"])
        head = HEADS.get(config["architecture"])
        rest, written = json.loads(stored[head.stored_as]) if head else None, int(config["format"])
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file}: not written by mixvec export: its metadata has no model ({error})") from error
    if written > FORMAT:
        raise UserError(f"{file}: format {written}, and this mixvec reads up to {FORMAT}: upgrade mixvec")
    with torch.device("meta"):
        encoder = OnnxEncoder(session, build_encoder(encoder_config_of(config, Path(file))))
    if head is None:
        return encoder.eval()
    try:
        model = head.restored(encoder, rest, config.get("head") or {})
    except (MalformedError, ValueError, TypeError) as error:
        raise UserError(f"{file}: {error}") from error
    model.head = lambda encoded: encoded.frames  # type: ignore[method-assign]  # the graph has computed it
    return model.eval()


def open_session(file: Path) -> Any:
    """A session of onnxruntime on the CPU, with as many threads as torch has.

    Raises:
        UserError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: needs onnxruntime: pip install 'mixvec[onnx]'") from error
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base
        raise UserError(f"{file}: not a model that onnxruntime can read ({str(error).splitlines()[0]})") from error
