"""Write the golden files: tiny models with random weights in hub folders, and what they compute.

    git worktree add /tmp/mixvec-0.1.0 7d72237
    cd /tmp/mixvec-0.1.0 && python PATH/TO/tests/golden/write.py PATH/TO/tests/golden

The folders beside this file were written by mixvec 0.1.0 (commit 7d72237), whose API this script uses: format 1, before
`mixvec/model/` existed. They are never written again; a later format gets files and a script of its own.
"""

import sys
from dataclasses import replace
from pathlib import Path

import soundfile  # noqa: F401  # before fairseq2, which looks for the libsndfile that its wheel carries
import torch
from safetensors.torch import save_file

from mixvec import (
    Classifier,
    CtcRecognizer,
    EncoderConfig,
    HybridRecognizer,
    HybridTagger,
    ProbeClassifier,
    SlotTagger,
    SpeakerEmbedder,
    build_encoder,
    encoder_config,
)
from mixvec.heads import TaskModel
from mixvec.hub import save_folder

MEL = replace(
    encoder_config("tiny"), mel_bins=20, conv_channels=16, dim=16, num_layers=2, ffn_dim=32, heads=2, conv_kernel=7
)
LITE = replace(MEL, block="branchformer", mixer="summary-lite", activation="gelu")
ATTENTION = replace(MEL, mixer="attention", conv_strides=(2, 1))
WAVEFORM = replace(MEL, front_end="waveform", mixer_norm=False)
WAV2VEC2 = replace(
    encoder_config("wav2vec2-large"), mixer="summary", conv_channels=16, dim=16, num_layers=2, ffn_dim=32, heads=2
)
LOG_MEL = EncoderConfig(kind="log-mel", dim=20, heads=1, num_layers=0, dropout=0.0, layer_drop=0.0)
VOCABULARY = ["[PAD]", "|", "'", "a", "b", "é"]
TAGS = [*VOCABULARY, "<intent:on>", "<slot:room>", "</slot>"]
LABELS = ["lights on", "lights off", "musik läuter"]

MODELS = {
    "encoder": lambda: build_encoder(MEL),
    "branchformer-lite": lambda: build_encoder(LITE),
    "attention": lambda: build_encoder(ATTENTION),
    "waveform": lambda: build_encoder(WAVEFORM),
    "wav2vec2": lambda: build_encoder(WAV2VEC2),
    "ctc": lambda: CtcRecognizer(MEL, VOCABULARY, "weighted"),
    "ctc-lstm": lambda: CtcRecognizer(MEL, VOCABULARY, "weighted", kind="lstm", width=8),
    "ctc-log-mel": lambda: CtcRecognizer(LOG_MEL, VOCABULARY),
    "classifier": lambda: Classifier(MEL, LABELS),
    "probe": lambda: ProbeClassifier(MEL, LABELS, kind="xvector", width=8),
    "tagger": lambda: SlotTagger(MEL, TAGS),
    "decoder": lambda: HybridRecognizer(MEL, VOCABULARY, decoder_layers=1, beam=3),
    "decoder-tagger": lambda: HybridTagger(MEL, TAGS, decoder_layers=1, beam=2),
    "speaker": lambda: SpeakerEmbedder(MEL, ["ann", "ben"], kind="ecapa", width=8, embedding=12),
}


def outputs(model, waveforms, lengths):
    """Every tensor that the model's forward pass gives, by name; and the frames of its encoder."""
    found = model(waveforms, lengths)
    encoded = model.encoder(waveforms, lengths) if isinstance(model, TaskModel) else found
    tensors = {f"layer.{number}": layer for number, layer in enumerate(encoded.layers)}
    tensors["frame_lengths"] = encoded.lengths
    if isinstance(model, TaskModel):
        tensors["output"] = found[0] if isinstance(found, tuple) else found
    if hasattr(model, "attend"):
        tensors["decoder"] = model.attend(encoded, torch.tensor([[3, 4], [5, 2]]))
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def main() -> None:
    out = Path(sys.argv[1])
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.eval()
        save_folder(model, out / name)
        (out / name / "README.md").unlink()  # the card is no part of what is kept
        waveforms, lengths = torch.randn(2, 4_000), torch.tensor([4_000, 2_900])
        with torch.inference_mode():
            found = outputs(model, waveforms, lengths)
        save_file({"waveforms": waveforms, "lengths": lengths} | found, out / name / "golden.safetensors")


if __name__ == "__main__":
    main()
