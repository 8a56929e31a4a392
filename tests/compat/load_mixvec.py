"""Load published models with mixvec and its base dependencies, from folders and the hub; write how far they are off.

python load_mixvec.py MODELS GOLDEN OUT    # HF_ENDPOINT is the hub, where MODELS/NAME is org/NAME
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from mixvec.hub import load_encoder, load_model


def difference(where: str, golden: dict) -> float:
    """The largest difference from the golden outputs."""
    model, encoder = load_model(where), load_encoder(where)
    with torch.inference_mode():
        found = model(golden["waveforms"], golden["lengths"])
        encoded = encoder(golden["waveforms"], golden["lengths"])
    pairs = [(layer, golden[f"layer.{number}"]) for number, layer in enumerate(encoded.layers)]
    if "output" in golden:
        pairs.append((found[0] if isinstance(found, tuple) else found, golden["output"]))
    return max(float((found - expected).abs().max()) for found, expected in pairs)


def main() -> None:
    torch.set_num_threads(1)
    models, golden, worst = Path(sys.argv[1]), Path(sys.argv[2]), {}
    for folder in sorted(models.iterdir()):
        for where in (str(folder), f"org/{folder.name}"):
            if folder.name != "speech":
                worst[where] = difference(where, load_file(golden / folder.name / "golden.safetensors"))
                continue
            given = load_file(folder.parent.parent / "speech.safetensors")["waveform"]
            expected = json.loads((folder.parent.parent / "speech.json").read_text())
            batch, lengths = torch.stack([given, given]), torch.tensor([len(given), 9_000])
            worst[where] = 0.0 if load_model(where).transcribe(batch, lengths) == expected else 1.0
    Path(sys.argv[3]).write_text(json.dumps({"torch": torch.__version__, "worst": worst}))


if __name__ == "__main__":
    main()
