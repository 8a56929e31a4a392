"""A pretraining run as a whole: what it leaves, and that ranks, micro-batches and interruptions do not change it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mixvec import SpeechEncoder, UserError
from mixvec.training.checkpoint import listed
from tests import prepared
from tests.runs import PRETRAIN, ROOT, command, identical, largest_difference, pretrain, rows, weights

EQUAL = ("contrastive_loss", "gradient_norm", "gradient_norm_median", "code_perplexity", "probability_perplexity",
         "feature_norm", "feature_square", "accuracy", "hours_seen")  # fmt: skip


def test_a_run_leaves_a_whole_directory_and_learns(corpus: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert pretrain(corpus, tmp_path / "run", "run.updates=30", "objective.distractors=20", "run.save_every=10") == 0
    assert signal.getsignal(signal.SIGINT) is before, "the run's own handlers end with it"
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "hub", "skipped.jsonl"} <= left
    log = rows(tmp_path / "run")
    assert [row["update"] for row in log] == list(range(1, 31))
    start, end = (sum(row["contrastive_loss"] for row in part) / 5 for part in (log[:5], log[-5:]))
    assert end < start - 0.01, (start, end)
    assert log[-1]["hours_seen"] > log[0]["hours_seen"] > 0
    assert 0.3 < log[0]["masked_fraction"] < 0.65
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 2, "run.keep=2"
    encoder = SpeechEncoder.from_pretrained(tmp_path / "run")
    last = weights(tmp_path / "run")
    assert all(torch.equal(t, last["encoder." + name]) for name, t in encoder.state_dict().items())
    assert json.loads((tmp_path / "run/hub/config.json").read_text())["training"]["updates"] == 30


@pytest.mark.slow
def test_resumed_equals_uninterrupted_bitwise_in_mid_epoch(corpus: Path, tmp_path: Path) -> None:
    keys = ("run.updates=8", "run.save_every=3", "encoder.dropout=0.1", "encoder.layer_drop=0.2", "batch.max_s=10")
    assert pretrain(corpus, tmp_path / "whole", *keys) == 0
    for last in (3, 6):
        stop_after(last, corpus, tmp_path / "parts", *keys)
    assert pretrain(corpus, tmp_path / "parts", *keys) == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    timing = {"audio_s_per_s", "seconds_left", "wait_share", "memory_mb", "energy_kwh"}
    whole, parts = (
        [{k: v for k, v in row.items() if k not in timing} for row in rows(tmp_path / name)]
        for name in ("whole", "parts")
    )
    assert whole == parts


@pytest.mark.slow
def test_a_kill_after_the_last_checkpoint_leaves_the_last_model_too(corpus: Path, tmp_path: Path) -> None:
    """The same command then has nothing left to do."""
    keys = ("run.updates=4", "run.save_every=2")
    stop_after(4, corpus, tmp_path / "run", *keys)
    assert pretrain(corpus, tmp_path / "run", *keys) == 0
    assert json.loads((tmp_path / "run/hub/config.json").read_text())["training"]["updates"] == 4


def test_what_a_killed_process_was_writing_is_removed_at_the_next_start(corpus: Path, tmp_path: Path) -> None:
    """Even where its number is another process's by now, as in a container that was restarted."""
    for name in ("run/.hub.new-1", f"run/.hub.new-{os.getppid()}"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "run/.metrics.jsonl.new-1-ab12").touch()
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".lock"]


def stop_after(update: int, corpus: Path, run: Path, *keys: str, base: Sequence[str] = PRETRAIN) -> None:
    """Run until a checkpoint of ``update`` is written, then end at once, as in a power cut."""
    arguments = [*base, f"data.train={corpus}/unlabelled", f"run.dir={run}", *keys]
    code = (
        "import os, sys, torch; torch.set_num_threads(1)\n"
        "from mixvec.training import run, config\n"
        "from pretrain import train\n"
        "from pretrain.config import PretrainConfig\n"
        "save = run.Run.save\n"
        "def then_die(self, state, *rest):\n"
        "    save(self, state, *rest)\n"
        "    self.writes.wait()\n"
        f"    state.update == {update} and os._exit(9)\n"
        "run.Run.save = then_die\n"
        "train.train(config.load_config(PretrainConfig, sys.argv[1:], ''))\n"
    )
    done = prepared.run(["-c", code, *arguments])
    assert done.returncode == 9, done.stderr


@pytest.mark.slow
def test_ranks_and_micro_batches_compute_what_one_does(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One micro-batch of an update, four, two and three ranks, or two ranks and then one: the same weights.

    Lengths and masked counts are unequal; Gumbel noise, dropout and LayerDrop are on. Five updates, since AdamW would
    hide a wrong factor in the first gradient.
    """
    keys = ["run.updates=5", "batch.update_s=20", "optim.lr=1e-2", "objective.feature_penalty=1", "optim.clip_norm=0.5",
            "encoder.dropout=0.1", "encoder.layer_drop=0.2", "run.save_every=1", "run.keep=9"]  # fmt: skip
    assert pretrain(corpus, tmp_path / "whole", *keys, "batch.max_s=40") == 0
    assert pretrain(corpus, tmp_path / "parts", *keys, "batch.max_s=6") == 0
    for ranks in (2, 3):
        run = tmp_path / f"ranks{ranks}"
        arguments = [*PRETRAIN, f"data.train={corpus}/unlabelled", f"run.dir={run}", *keys, "batch.max_s=40"]
        done = command("pretrain", *arguments, ranks=ranks)
        assert done.returncode == 0, done.stderr
        facts = json.loads((run / "hub/config.json").read_text())["training"]
        assert facts["devices"] == f"{ranks} x cpu" and f"{ranks} x cpu" in done.stdout
    shutil.copytree(tmp_path / "ranks2", tmp_path / "fewer")
    for later in (3, 4, 5):
        shutil.rmtree(tmp_path / f"fewer/checkpoints/update_{later:08d}")
    capsys.readouterr()
    assert pretrain(corpus, tmp_path / "fewer", *keys, "batch.max_s=40") == 0
    assert "update_00000002 on 1 ranks (previously 2)" in capsys.readouterr().out
    for other in ("parts", "ranks2", "ranks3", "fewer"):
        assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / other)) < 1e-4, other
        for mine, yours in zip(rows(tmp_path / "whole"), rows(tmp_path / other), strict=True):
            for key in EQUAL:
                assert mine[key] == pytest.approx(yours[key], rel=2e-4), (other, key)


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    arguments = [*PRETRAIN, f"data.train={corpus}/unlabelled", f"run.dir={tmp_path / 'run'}", "data.workers=1"]
    arguments.append("run.updates=100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("update 3/"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers too
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "the same command resumes" in output
    assert len(list((tmp_path / "run/checkpoints").iterdir())) >= 1
    assert SpeechEncoder.from_pretrained(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["attention", "summary"])
def test_fairseq2_trains_in_the_same_loop(corpus: Path, tmp_path: Path, mixer: str) -> None:
    keys = ("encoder.kind=wav2vec2", "encoder.front_end=waveform-groupnorm", f"encoder.mixer={mixer}", "data.max_s=2")
    assert pretrain(corpus, tmp_path / "run", *keys, "run.updates=2", "batch.update_s=6") == 0
    log = rows(tmp_path / "run")
    assert log[-1]["update"] == 2 and log[-1]["gradient_norm"] > 0


def test_bf16_is_close_to_fp32(corpus: Path, tmp_path: Path) -> None:
    for precision in ("bf16", "fp32"):
        assert pretrain(corpus, tmp_path / precision, "run.updates=1", f"run.precision={precision}") == 0
    low, full = rows(tmp_path / "bf16")[0], rows(tmp_path / "fp32")[0]
    assert low["contrastive_loss"] == pytest.approx(full["contrastive_loss"], rel=0.02)
    assert low["gradient_norm"] == pytest.approx(full["gradient_norm"], rel=0.1)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(corpus: Path, tmp_path: Path) -> None:
    """A fake full disk: the error that safetensors raises on one."""
    code = (
        "import sys\n"
        "from safetensors import SafetensorError\n"
        "from mixvec import atomic, errors\n"
        "from pretrain.__main__ import main\n"
        "write = atomic.save_file\n"
        "def full(tensors, path, **rest):\n"
        "    if 'update_00000004' in str(path) and path.name == 'optimizer.safetensors':\n"
        "        raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')\n"
        "    write(tensors, path, **rest)\n"
        "atomic.save_file = full\n"
        "errors.run_cli(main)\n"
    )
    arguments = [*PRETRAIN, f"data.train={corpus}/unlabelled", f"run.dir={tmp_path / 'run'}"]
    arguments += ["run.updates=6", "run.save_every=2"]
    done = prepared.run(["-c", code, *arguments])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no space left on device" in done.stderr and done.stderr.count("\n") == 1
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["update_00000002"], "nothing half-written"
    assert pretrain(corpus, tmp_path / "run", "run.updates=6", "run.save_every=2") == 0


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(corpus: Path, tmp_path: Path) -> None:
    """The thread that writes update 4 kills the process, moments half-way, while the main thread trains on."""
    code = (
        "import os, sys, torch; torch.set_num_threads(1)\n"
        "from mixvec.training import checkpoint\n"
        "from pretrain.__main__ import main\n"
        "write = checkpoint.save_tensors\n"
        "def then_die(tensors, path):\n"
        "    write(tensors, path)\n"
        "    'update_00000004' in str(path) and path.name == 'optimizer.safetensors' and os._exit(9)\n"
        "checkpoint.save_tensors = then_die\n"
        "main()\n"
    )
    keys = ("run.updates=6", "run.save_every=2")
    arguments = [*PRETRAIN, f"data.train={corpus}/unlabelled", f"run.dir={tmp_path / 'parts'}", *keys]
    done = prepared.run(["-c", code, *arguments])
    assert done.returncode == 9, done.stderr
    assert [path.name for path in listed(tmp_path / "parts/checkpoints")] == ["update_00000002"]
    for name in ("parts", "whole"):
        assert pretrain(corpus, tmp_path / name, *keys) == 0
    assert identical(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    left = [path.name for path in (tmp_path / "parts/checkpoints").iterdir()]
    assert sorted(left) == ["update_00000004", "update_00000006"], "nothing half-written is left"


@pytest.mark.slow
def test_an_augmented_run_is_resumed_bitwise_and_names_its_bad_noises(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/good.flac").write_bytes(next((corpus / "unlabelled").rglob("*.flac")).read_bytes())
    (tmp_path / "noise/bad.flac").write_text("this is no audio")
    sounds = (f"data.augment.noise={tmp_path}/noise", f"data.augment.reverb={tmp_path}/noise")
    keys = ("run.updates=4", "run.save_every=2", "data.workers=1", "data.augment.speed=[0.9,1.1]",
            "data.augment.mix_prob=0.5", *sounds)  # fmt: skip
    assert pretrain(corpus, tmp_path / "whole", *keys) == 0
    assert (tmp_path / "whole/skipped.jsonl").read_text().count("bad.flac: not audio") == 2
    stop_after(2, corpus, tmp_path / "parts", *keys)
    with pytest.raises(UserError, match=r"data\.augment\.speed \(\(0\.9, 1\.1\) → \(\)\)"):
        pretrain(corpus, tmp_path / "parts", *keys[:3], *keys[4:])
    assert pretrain(corpus, tmp_path / "parts", *keys) == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert pretrain(corpus, tmp_path / "plain", *keys[:3]) == 0
    assert not identical(weights(tmp_path / "whole"), weights(tmp_path / "plain"))
    with pytest.raises(UserError, match=r"data\.min_s=0\.2 .*data\.augment\.speed=2"):
        pretrain(corpus, tmp_path / "short", "data.min_s=0.2", "data.augment.speed=[2.0]")
