"""Run exported models with onnxruntime and numpy alone; write how far they are off.

python load_onnx.py MODELS GOLDEN OUT    # MODELS/../onnx has NAME.onnx, what it gets and what it must give in NAME.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def text_of(tokens: np.ndarray, vocabulary: list[str]) -> str:
    """Greedy CTC: repeats are merged, then blanks (token 0) dropped."""
    tokens = tokens[np.append(True, tokens[1:] != tokens[:-1])]
    return " ".join("".join(vocabulary[token] for token in tokens if token).replace("|", " ").split())


def difference(file: Path, folder: Path) -> float:
    """The largest difference from the golden output in an utterance's own frames; of `speech`, of the texts."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session, golden = onnxruntime.InferenceSession(file, options), np.load(file.with_suffix(".npz"))
    output, *rest = session.run(None, {name: golden[name] for name in ("waveforms", "lengths")})
    if file.stem == "speech":
        vocabulary = list(json.loads(session.get_modelmeta().custom_metadata_map["vocab.json"]))
        texts = [text_of(row[:length].argmax(-1), vocabulary) for row, length in zip(output, rest[0], strict=True)]
        return 0.0 if texts == json.loads((folder / "speech.json").read_text()) else 1.0
    if not rest:  # one answer for each utterance
        return float(np.abs(output - golden["output"]).max())
    (lengths,) = rest
    if not np.array_equal(lengths, golden["frame_lengths"]):
        return float("inf")
    own = np.arange(output.shape[1]) < lengths[:, None]
    return float(np.abs(output - golden["output"])[own].max())


def main() -> None:
    folder = Path(sys.argv[1]).parent
    worst = {file.stem: difference(file, folder) for file in sorted((folder / "onnx").glob("*.onnx"))}
    Path(sys.argv[3]).write_text(
        json.dumps({"onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "worst": worst})
    )


if __name__ == "__main__":
    main()
