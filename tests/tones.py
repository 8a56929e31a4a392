"""A recogniser that works and is small: two tones are the letters a and b, a third is a space, silence is blank.

`python -m tests.tones` trains it (20 s) and writes it to tests/tone_model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mixvec import CtcRecognizer, SpeechEncoder
from mixvec.hub import save_folder
from mixvec.model.context import Context
from tests.tiny_models import MEL

TONE_MODEL = Path(__file__).parent / "tone_model"
TONES_HZ = {"a": 400.0, "b": 1600.0, " ": 3200.0}
VOCABULARY = ["[PAD]", "a", "b", "|"]
RATE_HZ = 16_000
TONE_S, GAP_S = 0.20, 0.16
"""Of a letter, and of the silence after it; multiples of a frame's 40 ms and not."""


def sound(text: str, seed: int = 0) -> Tensor:
    """The waveform (S,) of a text: a tone and a gap for each letter, over faint noise; a dot is 0.5 s of silence."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for letter in text:
        if letter == ".":
            parts.append(torch.zeros(RATE_HZ // 2))
            continue
        at_s = torch.arange(round(TONE_S * RATE_HZ)) / RATE_HZ
        phase, level = (torch.rand(2, generator=draw) + torch.tensor([0.0, 0.5])).tolist()
        parts.append(0.1 * level * torch.sin(6.2832 * (TONES_HZ[letter] * at_s + phase)))
        parts.append(torch.zeros(round(GAP_S * RATE_HZ)))
    whole = torch.cat(parts)
    return whole + 1e-3 * torch.randn(len(whole), generator=draw)


def pcm(waveform: Tensor) -> bytes:
    """A waveform in ±1 as s16le."""
    return (waveform * 32767).round().to(torch.int16).numpy().tobytes()


def tone_recogniser(updates: int = 80) -> CtcRecognizer:
    """In eval mode; it reads ``sound`` in chunks of 320 ms and more without an error."""
    torch.manual_seed(3)
    config = replace(MEL, streaming=True, dropout=0.0, layer_drop=0.0)
    model = CtcRecognizer(SpeechEncoder(config), VOCABULARY, dropout=0.0).train()
    draw = torch.Generator().manual_seed(1)
    texts = []
    for row in torch.randint(0, 3, (24, 12), generator=draw).tolist():
        letters = "".join("ab "[number] for number in row)
        cut = 1 + row[0] * 4
        texts.append("." * row[1] + letters[:cut] + "." * (1 + row[2]) + letters[cut:] + ".")
    waves = [sound(text, seed) for seed, text in enumerate(texts)]
    length = min(map(len, waves))
    batch = torch.stack([wave[:length] for wave in waves])
    model.encoder.front_end.measure([(batch, torch.full((len(batch),), length))])
    frames = int(model.encoder.frame_lengths(length))
    targets = torch.stack([labels(text, frames, model.encoder.hop_samples) for text in texts])  # (B, T)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for update in range(updates):
        model.encoder.drawn_context = [None, Context(8), Context(16), Context(12, 2)][update % 4]
        log_probs = model(batch)[0]  # (B, T, V)
        loss = torch.nn.functional.nll_loss(log_probs.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def labels(text: str, frames: int, hop: int) -> Tensor:
    """The token (T,) that sounds in the middle of each frame."""
    found = torch.zeros((frames + 2) * hop, dtype=torch.int64)
    at = 0
    for letter in text:
        if letter == ".":
            at += RATE_HZ // 2
            continue
        found[at : at + round(TONE_S * RATE_HZ)] = 1 + "ab ".index(letter)
        at += round((TONE_S + GAP_S) * RATE_HZ)
    return found[hop // 2 :: hop][:frames]


def loaded() -> CtcRecognizer:
    """The model of ``TONE_MODEL``, with weights of its own."""
    return CtcRecognizer.from_pretrained(TONE_MODEL)


if __name__ == "__main__":
    save_folder(tone_recogniser(), TONE_MODEL)
