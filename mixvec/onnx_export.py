"""A model as one ONNX file, from waveforms to what its head gives: the mel front end is inside, any batch and length.

Inputs: ``waveforms`` (B, S) at 16 kHz in fp32, not normalised, and ``lengths`` (B,) in samples. Outputs: ``log_probs``
(B, T, V), ``logits`` (B, N), ``embeddings`` (B, E) or ``frames`` (B, T, D), and ``frame_lengths`` (B,) where there are
frames. The metadata holds config.json and the vocabulary or labels, so that ``mixvec.onnx_model`` needs no other file.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .atomic import whole_file
from .errors import UserError
from .hub import load_model, read_config
from .locate import resolve
from .model import Classifier, HybridRecognizer, HybridTagger, SpeakerEmbedder
from .model.encoder import SpeechEncoder
from .model.logmel import LogMelEncoder
from .model.mel import HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES, MelTables
from .model.task_model import TaskModel

OPSET = 20
MOST_BYTES = 2**31 - 1
"""What one file of ONNX can hold."""
TOLERANCE = 5e-3
"""Largest difference of outputs on noise: an fp32 export that has more is refused."""
CTC_ALONE: dict[type[nn.Module], str] = {HybridRecognizer: "CtcRecognizer", HybridTagger: "SlotTagger"}
"""What is exported of models with a decoder, whose search is a loop over texts."""


class Exported(NamedTuple):
    """What an export wrote: its size, the largest difference of onnxruntime's outputs to the model's own on noise, and
    whether a decoder was left out, so that texts are those of CTC alone."""

    megabytes: float
    difference: float
    without_decoder: bool


class DftTables(MelTables):
    """Mel tables whose spectrum is a convolution with the windowed DFT: onnxruntime's STFT is slower and less exact."""

    def __init__(self, mel_bins: int) -> None:
        super().__init__(mel_bins)
        samples, bins = torch.arange(WINDOW_SAMPLES).double(), torch.arange(WINDOW_SAMPLES // 2 + 1).double()
        angle = 2 * math.pi / WINDOW_SAMPLES * bins.unsqueeze(1) * samples  # (bins, samples)
        window = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64)
        self.kernel = (torch.cat([angle.cos(), angle.sin()]) * window).float().unsqueeze(1)  # (2 · bins, 1, samples)

    def power(self, x: Tensor) -> Tensor:
        """The power spectrum (B, T, bins) of x (B, S)."""
        real, imag = nn.functional.conv1d(x.unsqueeze(1), self.kernel, stride=HOP_SAMPLES).chunk(2, dim=1)
        return (real * real + imag * imag).transpose(1, 2)


class Outputs(nn.Module):
    """The tensors that a model gives, for a graph: without the tuple around them, and without the encoder's layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        found = self.model(waveforms, lengths)
        return (found,) if isinstance(found, Tensor) else tuple(found[:2])


def export_onnx(name_or_path: str | Path, file: str | Path, *, int8: bool = False) -> Exported:
    """Write the model of a hub folder, run directory or hub repository as ``file``, whole or not at all.

    With ``int8`` the weights of linear layers are stored and multiplied in 8 bits, activations are quantised as they
    come; the mel filters, the convolutions and SummaryMixing's block-diagonal layers stay in fp32.

    Raises:
        UserError: onnx is not installed, the model cannot be exported or is too large for one file, or the file gives
            other outputs than the model.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  # by which torch writes ONNX
    except ModuleNotFoundError as error:
        raise UserError(f"export needs {error.name}: pip install 'mixvec[onnx]'") from error
    target = Path(file)
    if target.is_dir() or target.suffix != ".onnx":
        raise UserError(f"--to {target}: must be the name of a file that ends in .onnx")
    folder = resolve(name_or_path)
    config, model = read_config(folder), load_model(folder)
    encoder = model.encoder if isinstance(model, TaskModel) else model
    if not isinstance(encoder, SpeechEncoder | LogMelEncoder):
        what = type(encoder).__name__
        raise UserError(f"{name_or_path}: its encoder is a {what}, and only mixvec's own can be exported")
    if any(isinstance(module, nn.LSTM) for module in model.modules()):
        raise UserError(f"{name_or_path}: head.kind=lstm cannot be exported, since packed sequences have no form in "
                        "ONNX; choose a model whose head has another kind")  # fmt: skip
    for module in model.modules():
        tables: Any = getattr(module, "tables", None)
        if isinstance(tables, MelTables):
            setattr(module, "tables", DftTables(tables.mel_bins))  # noqa: B010  # else it is taken for a module
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        graph = _graph(Outputs(model).eval(), name_or_path)
        if int8:
            graph = _quantised(graph, Path(scratch))
        del graph.metadata_props[:], graph.graph.value_info[:]
        onnx.helper.set_model_props(graph, _metadata(config, model))
        if graph.ByteSize() > MOST_BYTES:
            raise UserError(f"{name_or_path}: over 2 GB, more than one ONNX file holds; export with --int8")
        with whole_file(target) as new:
            onnx.save(graph, new)
            difference = _difference(Outputs(model), new)
            if not difference <= (math.inf if int8 else TOLERANCE):
                raise UserError(f"{name_or_path}: the exported file's outputs differ by {difference:.2g} from the "
                                "model's own; not written")  # fmt: skip
            size = new.stat().st_size
    return Exported(size / 1e6, difference, type(model) in CTC_ALONE)


def _graph(model: nn.Module, name: str | Path) -> Any:
    """The ONNX model, its dimensions named."""
    head = model.model
    first = "frames" if not isinstance(head, TaskModel) else "log_probs"
    first = "logits" if isinstance(head, Classifier) else "embeddings" if isinstance(head, SpeakerEmbedder) else first
    names = [first, "frame_lengths"][: 2 if first in ("frames", "log_probs") else 1]
    given = torch.randn(2, SAMPLE_RATE_HZ), torch.tensor([SAMPLE_RATE_HZ, 9_000])
    free = torch.export.Dim.DYNAMIC
    try:
        program = torch.onnx.export(
            model, given, dynamo=True, dynamic_shapes=({0: free, 1: free}, {0: free}), opset_version=OPSET,
            input_names=["waveforms", "lengths"], output_names=names, verbose=False,
        )  # fmt: skip
    except Exception as error:  # torch names no class for what it cannot export
        cause = str(error).strip().splitlines()
        raise UserError(f"{name}: torch {torch.__version__} cannot export this model ({type(error).__name__}: "
                        f"{cause[0] if cause else 'no message'})") from error  # fmt: skip
    assert program is not None
    graph = program.model_proto
    _multiply_squares(graph)
    shown = {"waveforms": ("batch", "samples"), "log_probs": ("batch", "frames"), "frames": ("batch", "frames")}
    for value in (*graph.graph.input, *graph.graph.output):
        for dim, dim_name in zip(value.type.tensor_type.shape.dim, shown.get(value.name, ("batch",)), strict=False):
            dim.dim_param = dim_name
    return graph


def _multiply_squares(graph: Any) -> None:
    """Replace x² by x · x, which a runtime computes many times faster than a power, and drop constants left unused."""
    from onnx import numpy_helper

    constants = {entry.name: entry for entry in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Pow" and node.input[1] in constants:
            exponent = numpy_helper.to_array(constants[node.input[1]])
            if exponent.size == 1 and float(exponent.reshape(())) == 2.0:
                node.op_type, node.input[1] = "Mul", node.input[0]
    used = {name for node in graph.graph.node for name in node.input}
    for name in constants.keys() - used:
        graph.graph.initializer.remove(constants[name])


def _quantised(graph: Any, scratch: Path) -> Any:
    """The graph with linear layers in int8, all but the mel filters and weights that are not matrices."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.save(graph, scratch / "fp32.onnx", save_as_external_data=True, location="fp32.data")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # halves of a weight: folded
    options.log_severity_level, options.optimized_model_filepath = 3, str(scratch / "folded.onnx")
    onnxruntime.InferenceSession(scratch / "fp32.onnx", options, providers=["CPUExecutionProvider"])
    folded = onnx.load(scratch / "folded.onnx")
    shapes = {entry.name: tuple(entry.dims) for entry in folded.graph.initializer}
    products = [node for node in folded.graph.node if node.op_type == "MatMul"]
    weights = [shapes.get(node.input[1], ()) for node in products]
    mel = WINDOW_SAMPLES // 2 + 1  # rows of the filters, which 8 bits would ruin
    kept = [node.name for node, w in zip(products, weights, strict=True) if len(w) != 2 or w[0] == mel]
    quantize_dynamic(
        scratch / "folded.onnx", scratch / "int8.onnx", op_types_to_quantize=["MatMul"], per_channel=True,
        weight_type=QuantType.QInt8, nodes_to_exclude=kept,
    )  # fmt: skip
    return onnx.load(scratch / "int8.onnx")


def _metadata(config: dict[str, Any], model: nn.Module) -> dict[str, str]:
    """What a user of the file needs to know, as texts; JSON where it is not one value."""
    if type(model) in CTC_ALONE:
        own = {key: value for key, value in config["head"].items() if key in ("layers", "dropout")}
        config = config | {"architecture": CTC_ALONE[type(model)], "head": own}
    encoder: Any = model.encoder if isinstance(model, TaskModel) else model
    facts = {
        "architecture": config["architecture"],
        "sample_rate_hz": str(SAMPLE_RATE_HZ),
        "min_samples": str(encoder.min_samples),
        "hop_samples": str(encoder.hop_samples),
        "normalisation": "in the graph",
        "config.json": json.dumps(config, ensure_ascii=False),
    }
    return facts | ({model.stored_as: json.dumps(model.stored(), ensure_ascii=False)} if isinstance(model, TaskModel)
                    else {})  # fmt: skip


def _difference(model: nn.Module, file: Path) -> float:
    """The largest difference of onnxruntime's outputs to the model's, for one utterance and for a padded batch."""
    from .onnx_model import open_session

    session, largest = open_session(file), 0.0
    for samples, lengths in ((24_000, [24_000]), (40_000, [40_000, 8_000, 23_457])):
        waveforms = 0.1 * torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(samples))
        given = {"waveforms": waveforms.numpy(), "lengths": torch.tensor(lengths).numpy()}
        with torch.inference_mode():
            expected = model(waveforms, torch.tensor(lengths))
        for own, other in zip(expected, session.run(None, given), strict=True):
            largest = max(largest, float((own - torch.from_numpy(other)).abs().max()))
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's and onnxruntime's notes on their own working out of the output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
