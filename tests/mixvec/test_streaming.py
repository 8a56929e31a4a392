"""Chunks of context: the prefix sums against a T × T oracle, streamed = offline, and no look at the future."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixvec import EncoderConfig, SpeechEncoder
from mixvec.model.blocks import Depthwise
from mixvec.model.context import Context
from mixvec.model.mixing import SelfAttention, SummaryMixing
from mixvec.model.noise import set_keys

TINY = EncoderConfig(
    mel_bins=20, conv_channels=16, conv_strides=(2, 2), dim=16, num_layers=2, ffn_dim=32, conv_kernel=7, heads=2,
    dropout=0.0, layer_drop=0.0, streaming=True,
)  # fmt: skip
ENCODERS = {
    "summary": TINY,
    "attention": replace(TINY, mixer="attention"),
    "branchformer": replace(TINY, block="branchformer"),
    "lite": replace(TINY, block="branchformer", mixer="summary-lite"),
    "branchformer-attention": replace(TINY, block="branchformer", mixer="attention"),
    "20 ms": replace(TINY, conv_strides=(2, 1)),
    "waveform": replace(TINY, front_end="waveform"),
}
CONTEXTS = [Context(4, 0), Context(4, 2), Context(5, None), Context(64, 1)]


def encoder_of(config: EncoderConfig) -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(config).eval()


def seen(frames: int, context: Context) -> Tensor:
    """(T, T) True where the frame of a row may see the frame of a column, by the definition."""
    left = frames if context.left_chunks is None else context.left_chunks
    chunk = [t // context.chunk_frames for t in range(frames)]
    return torch.tensor([[0 <= chunk[t] - chunk[u] <= left for u in range(frames)] for t in range(frames)])


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lite", [False, True])
def test_prefix_sums_equal_the_oracle_with_gradients(context: Context, masked: bool, lite: bool) -> None:
    torch.manual_seed(1)
    mixer, frames = SummaryMixing(8, 2, lite=lite, dropout=0.0).double(), 23
    x = torch.randn(2, frames, 8, dtype=torch.float64, requires_grad=True)
    valid = torch.arange(frames) < torch.tensor([frames, 9]).unsqueeze(1)
    mask = valid if masked else None
    found = mixer(x, mask, context)

    weights = mixer.first.weight, mixer.first.bias, mixer.second.weight, mixer.second.bias
    rows = []
    for row in range(2):  # every frame as an utterance of its own gives f(x_t) and s(x_t)
        f, s = mixer.branches(x[row].unsqueeze(1), None, *weights, False)
        allowed = (seen(frames, context) & (valid[row] if masked else torch.tensor(True))).double()
        summary = mixer.summary_norm(allowed @ s / allowed.sum(1, keepdim=True).clamp(min=1))
        if not lite:
            summary = mixer.act(mixer.combine(torch.cat([mixer.local_norm(f.squeeze(1)), summary], dim=-1)))
        rows.append(summary)
    expected = torch.stack(rows)
    assert torch.allclose(found[valid], expected[valid], atol=1e-9)

    found_gradient, expected_gradient = (
        torch.autograd.grad(y[valid].square().sum(), [x, *mixer.parameters()]) for y in (found, expected)
    )
    for one, other in zip(found_gradient, expected_gradient, strict=True):
        assert torch.allclose(one, other, atol=1e-8)


@pytest.mark.parametrize("context", CONTEXTS)
def test_attention_in_windows_equals_the_oracle(context: Context) -> None:
    torch.manual_seed(1)
    mixer, frames = SelfAttention(8, 2, dropout=0.0).double(), 23
    x, lengths = torch.randn(2, frames, 8, dtype=torch.float64, requires_grad=True), (frames, 9)
    mask = torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)
    found = mixer(x, mask, context)
    for row, length in enumerate(lengths):
        q, k, v = mixer.qkv(x[row, :length]).view(length, 3, 2, 4).permute(1, 2, 0, 3)
        scores = (q @ k.transpose(1, 2) / 2).masked_fill(~seen(length, context), float("-inf"))
        expected = mixer.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
        assert torch.allclose(found[row, :length], expected, atol=1e-9)
    gradient = torch.autograd.grad(found[mask].sum(), [x, *mixer.parameters()])
    assert all(one.isfinite().all() for one in gradient)


@pytest.mark.parametrize("chunk_frames", [1, 4, 5, 64])
def test_a_convolution_sees_the_past_and_the_rest_of_its_chunk_alone(chunk_frames: int) -> None:
    torch.manual_seed(1)
    depthwise, frames = Depthwise(3, 7).double(), 23
    x, mask = torch.randn(2, frames, 3, dtype=torch.float64), torch.arange(frames) < torch.tensor([[frames], [9]])
    found = depthwise(x, mask, Context(chunk_frames))
    for t in range(frames):
        end = (t // chunk_frames + 1) * chunk_frames
        seen_alone = x * (mask & (torch.arange(frames) < end)).unsqueeze(-1)
        assert torch.allclose(found[:, t], depthwise(seen_alone, None)[:, t], atol=1e-12)


def streamed(encoder: SpeechEncoder, waveforms: Tensor, context: Context, cut: int) -> list[Tensor]:
    """Every layer's frames, from one call for each piece: single samples first, then pieces ``cut`` long."""
    state, found = None, []
    for first, end in itertools.pairwise([*range(6), *range(6, waveforms.shape[1], cut), waveforms.shape[1]]):
        output, state = encoder.stream(waveforms[:, first:end], state, context, final=end == waveforms.shape[1])
        assert output.lengths.tolist() == [output.frames.shape[1]] * len(waveforms)
        found.append(output.layers)
    return [torch.cat(layer, dim=1) for layer in zip(*found, strict=True)]


every_encoder_and_context = pytest.mark.parametrize(
    ("name", "context"),
    [*(("summary", context) for context in CONTEXTS), *itertools.product([*ENCODERS][1:], CONTEXTS[1:3])],
)


@every_encoder_and_context
def test_streamed_equals_offline(name: str, context: Context) -> None:
    encoder = encoder_of(ENCODERS[name])
    waveforms = torch.randn(2, 30_123) * torch.tensor([[0.1], [0.02]])
    encoder.context = context
    with torch.no_grad():
        offline = encoder(waveforms).layers
    for cut in (777, 40_000):
        for one, other in zip(streamed(encoder, waveforms, context, cut), offline, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_later_sample_never_changes_an_earlier_frame(name: str) -> None:
    encoder = encoder_of(ENCODERS[name])
    encoder.context = context = Context(4, None)
    waveforms = torch.randn(1, 20_000) * 0.1
    with torch.no_grad():
        before = encoder(waveforms).frames
        for changed in (0, 5_000, 12_345, 19_999):
            other = waveforms.clone()
            other[:, changed:] += 0.3 * torch.randn(1, 20_000 - changed)
            after = encoder(other).frames
            # a chunk is final when the samples of its last frame have come, the front end's look-ahead included
            frames = max(0, changed - encoder.front_end.look_ahead_samples) // encoder.hop_samples
            whole = frames // context.chunk_frames * context.chunk_frames
            assert torch.allclose(before[:, :whole], after[:, :whole], atol=1e-6)
            assert changed > 19_000 or not torch.allclose(before, after, atol=1e-3)


@every_encoder_and_context
def test_padded_equals_alone(name: str, context: Context) -> None:
    encoder = encoder_of(ENCODERS[name])
    encoder.context = context
    waveforms, lengths = torch.randn(3, 16_000) * 0.1, [16_000, 9_000, 3_300]
    with torch.no_grad():
        frames, valid, _ = encoder(waveforms, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            alone = encoder(waveforms[row : row + 1, :length]).frames[0]
            assert len(alone) == valid[row]
            assert torch.allclose(frames[row, : len(alone)], alone, atol=1e-5)


@pytest.mark.parametrize("left", [3, None])
def test_the_state_is_tensors_of_constant_size_and_is_not_changed(left: int | None) -> None:
    encoder, sizes = encoder_of(TINY), set()
    state: dict[str, Tensor] | None = None
    for _ in range(6):
        samples = torch.randn(2, 4 * 640)
        kept = None if state is None else {name: value.clone() for name, value in state.items()}
        _, after = encoder.stream(samples, state, Context(4, left))
        if state is not None and kept is not None:
            assert all(torch.equal(state[name], kept[name]) for name in kept)
        state = after
        sizes.add(sum(value.numel() for value in state.values()))
        assert all(len(value) == 2 for value in state.values())
    assert len(sizes) <= 2  # the first call lacks the samples that the front end sees ahead, and encodes nothing


def test_streams_can_be_batched_and_separated_between_calls() -> None:
    encoder, context = encoder_of(TINY), Context(4, 2)
    a, b = torch.randn(1, 20_000) * 0.1, torch.randn(1, 20_000) * 0.1
    _, of_a = encoder.stream(a[:, :7_600], None, context)  # b begins one chunk later
    late, of_a = encoder.stream(a[:, 7_600:10_160], of_a, context)
    _, of_b = encoder.stream(b[:, :7_600], None, context)
    both = {name: torch.cat([of_a[name], of_b[name]]) for name in of_a}
    output, _ = encoder.stream(torch.cat([a[:, 10_160:15_280], b[:, 7_600:12_720]]), both, context)
    for row, (wave, end) in enumerate(((a, 15_280), (b, 12_720))):
        alone = encoder.stream(wave[:, :end], None, context)[0].frames
        assert torch.allclose(output.frames[row], alone[0, -output.frames.shape[1] :], atol=1e-5)
    assert late.frames.shape[1] == 4


def test_what_cannot_stream_is_refused() -> None:
    encoder, samples = encoder_of(TINY), torch.zeros(1, 640)
    with pytest.raises(ValueError, match=r"encoder\.streaming"):
        encoder_of(replace(TINY, streaming=False, normalise="utterance")).stream(samples, context=Context(4))
    with pytest.raises(ValueError, match="context"):
        encoder.stream(samples)
    for values, named in (((0,), "chunk_frames=0"), ((4, -1), "left_chunks=-1")):
        with pytest.raises(ValueError, match=named):
            Context(*values)
    with pytest.raises(ValueError, match=r"chunk_frames=2 .*840 samples.* 3"):
        encoder_of(ENCODERS["20 ms"]).stream(samples, context=Context(2))


@pytest.mark.parametrize("front_end", ["mel", "waveform"])
def test_constants_are_measured_stored_and_loaded(front_end: str, tmp_path: object) -> None:
    encoder = encoder_of(replace(TINY, front_end=front_end))  # type: ignore[arg-type]
    quiet, lengths = 0.01 * torch.randn(2, 32_000), torch.tensor([32_000, 20_000])
    quiet[1, 20_000:] = 5.0  # what is beyond a length is not measured
    encoder.front_end.measure([(quiet, lengths)])
    assert encoder.front_end.gain == pytest.approx(100, rel=0.05)
    if front_end == "mel":
        mel = encoder.front_end.local(encoder.front_end.scaled(quiet, lengths))
        assert mel.isfinite().all()
        assert encoder.front_end.mel_deviation.min() >= 0.1
    other = encoder_of(replace(TINY, front_end=front_end))  # type: ignore[arg-type]
    other.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(other(quiet, lengths).frames, encoder(quiet, lengths).frames)
    with pytest.raises(ValueError, match="silence"):
        encoder.front_end.measure([(torch.zeros(1, 16_000), torch.tensor([16_000]))])


def test_dropout_in_chunks_is_a_function_of_the_utterance() -> None:
    encoder = encoder_of(replace(TINY, dropout=0.3)).train()
    encoder.drawn_context = Context(4, 1)
    waveforms, lengths = 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    set_keys(encoder, torch.tensor([7, 8]))
    together = encoder(waveforms, lengths).frames
    set_keys(encoder, torch.tensor([8]))
    alone = encoder(waveforms[1:, :9_000], lengths[1:]).frames
    assert torch.allclose(together[1, : alone.shape[1]], alone[0], atol=1e-5)
