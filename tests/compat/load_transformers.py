"""Load published models with torch and transformers alone, from folders and from the hub; write how far they are off.

python load_transformers.py MODELS GOLDEN OUT    # HF_ENDPOINT is the hub, where MODELS/NAME is org/NAME
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, pipeline


def difference(where: str, config: dict, golden: dict) -> float:
    """The largest difference from the golden outputs, of the model and of the encoder in it."""
    (auto,) = [key for key, name in config["auto_map"].items() if name.endswith("." + config["architectures"][0])]
    waveforms, lengths = golden["waveforms"], golden["lengths"]
    mask = (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()
    model = getattr(transformers, auto).from_pretrained(where, trust_remote_code=True).eval()
    inner = AutoModel.from_pretrained(where, trust_remote_code=True).eval()
    with torch.inference_mode():
        output = model(waveforms, attention_mask=mask, output_hidden_states=True)
        pairs = [(layer, golden[f"layer.{number}"]) for number, layer in enumerate(output.hidden_states)]
        pairs.append((inner(waveforms, attention_mask=mask).last_hidden_state, pairs[-1][1]))
    if "output" in golden:
        found, expected = output.get("embeddings", output.get("logits")), golden["output"]
        if found.dim() == 3:
            own = torch.arange(found.shape[1]) < golden["frame_lengths"][:, None]
            found, expected = found[own], expected[own]
        pairs.append((found, expected))
    return max(float((found - expected).abs().max()) for found, expected in pairs)


def main() -> None:
    torch.set_num_threads(1)
    models, golden, worst = Path(sys.argv[1]), Path(sys.argv[2]), {}
    for folder in sorted(models.iterdir()):
        config = json.loads((folder / "config.json").read_text())
        for where in (str(folder), f"org/{folder.name}"):
            numbers = load_file(golden / folder.name / "golden.safetensors") if folder.name != "speech" else None
            if numbers:
                worst[where] = difference(where, config, numbers)
                continue
            given = load_file(folder.parent.parent / "speech.safetensors")["waveform"].numpy()
            expected = json.loads((folder.parent.parent / "speech.json").read_text())
            AutoProcessor.from_pretrained(where)
            recognise = pipeline("automatic-speech-recognition", model=where, trust_remote_code=True)
            rows = [recognise(given), *recognise([given, given[:9_000]], batch_size=2)]
            rows.append(recognise(given, return_timestamps="word"))
            texts = [" ".join(row["text"].split()) for row in rows]
            worst[where] = 0.0 if texts == [expected[0], *expected, expected[0]] else 1.0
    Path(sys.argv[3]).write_text(
        json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "worst": worst})
    )


if __name__ == "__main__":
    main()
