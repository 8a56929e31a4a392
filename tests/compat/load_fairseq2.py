"""Load published models with fairseq2, from folders and the hub, by their cards; write how far they are off.

python load_fairseq2.py MODELS GOLDEN OUT    # HF_ENDPOINT is the hub, where MODELS/NAME is org/NAME

A recogniser is loaded as one, and of every other model the encoder.
"""

import json
import sys
from pathlib import Path

import soundfile  # noqa: F401  (before fairseq2, which finds libsndfile only once this has loaded it)
import torch
from fairseq2 import __version__, init_fairseq2
from fairseq2.models import load_model
from fairseq2.nn import BatchLayout
from safetensors.torch import load_file

from mixvec.fairseq2_family import MixvecAsrModel, card_of, register


def difference(model: torch.nn.Module, golden: dict) -> float:
    """The largest difference from the golden outputs, in the frames of each utterance."""
    waveforms, lengths = golden["waveforms"], golden["lengths"]
    with torch.inference_mode():
        if isinstance(model, MixvecAsrModel):
            layout = BatchLayout(tuple(waveforms.shape), lengths.tolist())
            pairs = [(model(waveforms, layout)[0], golden["output"])]
        else:
            layers = model(waveforms, lengths).layers
            pairs = [(layer, golden[f"layer.{number}"]) for number, layer in enumerate(layers)]
    return max(float((found - expected).abs().max()) for found, expected in pairs)


def main() -> None:
    torch.set_num_threads(1)
    init_fairseq2(extras=register)
    models, golden, worst = Path(sys.argv[1]), Path(sys.argv[2]), {}
    for folder in sorted(models.iterdir()):
        recogniser = json.loads((folder / "config.json").read_text())["architecture"] == "CtcRecognizer"
        for where in (str(folder), f"org/{folder.name}"):
            model = load_model(card_of(where), device=torch.device("cpu"), dtype=torch.float32).eval()
            if isinstance(model, MixvecAsrModel) != recogniser:
                worst[where] = float("inf")
                continue
            if folder.name != "speech":
                worst[where] = difference(model, load_file(golden / folder.name / "golden.safetensors"))
                continue
            given = load_file(folder.parent.parent / "speech.safetensors")["waveform"]
            expected = json.loads((folder.parent.parent / "speech.json").read_text())
            batch, lengths = torch.stack([given, given]), torch.tensor([len(given), 9_000])
            worst[where] = 0.0 if model.transcribe(batch, lengths) == expected else 1.0
    Path(sys.argv[3]).write_text(json.dumps({"fairseq2": __version__, "torch": torch.__version__, "worst": worst}))


if __name__ == "__main__":
    main()
