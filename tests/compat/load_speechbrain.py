"""Load the encoders of published models with SpeechBrain, from folders and the hub; write how far they are off.

python load_speechbrain.py MODELS GOLDEN OUT    # HF_ENDPOINT is the hub, where MODELS/NAME is org/NAME
"""

import json
import sys
from pathlib import Path

import speechbrain
import torch
import transformers
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import load_file
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2


def difference(where: str, golden: dict) -> float:
    """The largest difference from the golden layers."""
    encoder = Wav2Vec2(where, save_path=HF_HUB_CACHE, trust_remote_code=True, freeze=True, output_all_hiddens=True)
    waveforms = golden["waveforms"]
    layers = encoder(waveforms, golden["lengths"] / waveforms.shape[1])  # (L + 1, B, T, D)
    expected = torch.stack([golden[f"layer.{number}"] for number in range(len(layers))])
    return float((layers - expected).abs().max())


def main() -> None:
    torch.set_num_threads(1)
    models, golden, worst = Path(sys.argv[1]), Path(sys.argv[2]), {}
    for folder in sorted(models.iterdir()):
        if folder.name == "speech":  # for its text, which an encoder has none of
            continue
        for where in (str(folder), f"org/{folder.name}"):
            worst[where] = difference(where, load_file(golden / folder.name / "golden.safetensors"))
    versions = {"speechbrain": speechbrain.__version__, "transformers": transformers.__version__}
    Path(sys.argv[3]).write_text(json.dumps({**versions, "torch": torch.__version__, "worst": worst}))


if __name__ == "__main__":
    main()
