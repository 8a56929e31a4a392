"""Waveform augmentation in fine-tuning: of the training split alone, and no text is ever longer than its frames."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.batch import LabelledBatch
from finetune.config import FinetuneConfig
from finetune.setup import build_model, find_corpora, open_data
from finetune.tasks import task_class
from finetune.tasks.asr import frames_needed
from mixvec import UserError
from mixvec.data.batches import Updates
from mixvec.training.config import load_config
from tests.runs import FINETUNE, ROOT, SMALLEST, finetune

ON = ("data.augment.speed=[0.5,1.1]", "data.augment.mix_prob=0.5", "data.augment.noise_prob=1")


def opened(corpus: Path, run_dir: Path, *keys: str) -> dict[str, Updates[LabelledBatch]]:
    """The data of a recognition run, by split."""
    data = [f"data.train={corpus}/asr/train", f"data.valid={corpus}/asr/validation"]
    arguments = [str(ROOT / "configs/asr.yaml"), *data, f"run.dir={run_dir}", *FINETUNE, "size=tiny", *SMALLEST, *keys]
    config = load_config(FinetuneConfig, arguments, "")
    one_rank = SimpleNamespace(num_processes=1, process_index=0)
    log = SimpleNamespace(print=print)
    skips = SimpleNamespace(note=lambda rows, fresh=False: None)
    run: Any = SimpleNamespace(dir=run_dir, accelerator=one_rank, log=log, skips=skips)
    corpora = find_corpora(config)
    task = task_class(config.task)(config, corpora["train"])
    encoder = build_model(config, task)[0].encoder
    return {split: open_data(config, run, task, encoder, found, split) for split, found in corpora.items()}


def test_only_training_is_augmented(corpus: Path, tmp_path: Path) -> None:
    noise = f"data.augment.noise={corpus}/intent/test"
    plain, augmented = opened(corpus, tmp_path / "plain"), opened(corpus, tmp_path / "on", *ON, noise)
    assert augmented["valid"].augment is None
    for one, other in zip(plain["valid"].once(), augmented["valid"].once(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.batch, other.batch, strict=True))
    assert not torch.equal(plain["train"].read(0, 0).waveform, augmented["train"].read(0, 0).waveform)


def test_a_text_fits_its_frames_at_every_speed_and_nothing_is_cut(corpus: Path, tmp_path: Path) -> None:
    """Texts of growing length on the same second of audio: those that the fastest speed has no frames for go."""
    folder = tmp_path / "data/asr/train"
    folder.mkdir(parents=True)
    (folder.parent / "validation").symlink_to(corpus / "asr/validation")
    source = sorted((corpus / "asr/train").rglob("*.flac"))[0]
    texts = ["ab" * n for n in range(1, 60)]
    rows = [{"file_name": f"{n}.flac", "text": text} for n, text in enumerate(texts)]
    for row in rows:
        (folder / str(row["file_name"])).symlink_to(source)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = opened(tmp_path / "data", tmp_path / "plain")["train"]
    fast = opened(tmp_path / "data", tmp_path / "on", "data.augment.speed=[0.5,2.0]")["train"]
    assert 0 < len(fast.utterances) < len(plain.utterances)
    lengths = set()
    for _, parts in itertools.islice(fast.start(), 2 * fast.epoch_length(0)):
        for part in parts:
            assert part.padded_s <= 120
            frames = (part.batch.lengths // 160 // 4).tolist()  # at most: the tiny encoder has a frame every 40 ms
            for frame_count, target, n in zip(frames, part.batch.targets, part.batch.target_lengths, strict=True):
                assert frames_needed(target[:n].tolist()) <= frame_count
            lengths |= set(part.batch.lengths.tolist())
    whole = len(plain.read(0, 0).waveform)
    assert lengths == {2 * whole, -(-whole // 2)}


def test_a_run_with_all_of_it_and_its_errors(corpus: Path, tmp_path: Path) -> None:
    sounds = (f"data.augment.noise={corpus}/intent/test", f"data.augment.reverb={corpus}/intent/validation")
    keys = ("size=tiny", *SMALLEST, "run.updates=2", "run.eval_every=2", "data.workers=1")
    assert finetune("asr", corpus, tmp_path / "run", *keys, *ON, *sounds) == 0
    with pytest.raises(UserError, match=r"data\.augment\.noise=/nowhere"):
        finetune("asr", corpus, tmp_path / "other", *keys, "data.augment.noise=/nowhere")
    with pytest.raises(UserError, match=r"data\.train at data\.augment\.speed=2: "):
        finetune("asr", corpus, tmp_path / "fast", *keys, "data.augment.speed=[2.0]")
    with pytest.raises(UserError, match=r"batch\.max_s=50\.0 .*data\.max_s=30\.0 .*augment\.speed=0\.5"):
        finetune("asr", corpus, tmp_path / "third", *keys, *ON, "batch.max_s=50")
