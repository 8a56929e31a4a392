"""Configuration: what overrides what, every wrong value named in a line, and what is written reads back the same."""

from __future__ import annotations

import math
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mixvec import SIZES, UserError, encoder_config
from mixvec.training.config import changed_keys, load_config, write_config
from pretrain.config import PretrainConfig
from tests.runs import ROOT

CONFIGS = [
    path
    for path in sorted((ROOT / "configs").glob("*.yaml"))
    if not re.search(r"^task:", path.read_text(), re.MULTILINE)
]
"""Those of pretraining; the ones that name a task are finetune's."""


def load(*arguments: str) -> PretrainConfig:
    return load_config(PretrainConfig, list(arguments), "usage: test")


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(
        "size: tiny\nencoder: {num_layers: 5, dropout: 0.3}\noptim: {lr: 3e-4, clip_norm: 7}\ndata: {train: a}\n"
    )
    return path


def test_defaults_then_size_then_yaml_then_command_line(yaml: Path) -> None:
    config = load(str(yaml), "encoder.dropout=0.2", "data.train=b", "optim.lr=1e-5", "data.train=c", "data.train=b")
    assert config.optim.weight_decay == PretrainConfig().optim.weight_decay == 0.05
    assert config.encoder.dim == SIZES["tiny"].dim == 128
    assert (config.encoder.num_layers, config.optim.clip_norm) == (5, 7.0)
    assert (config.encoder.dropout, config.data.train, config.optim.lr) == (0.2, "b", 1e-5)
    other = load(str(yaml), "size=small")
    assert (other.size, other.encoder.dim, other.encoder.num_layers) == ("small", 256, 5)


def test_defaults_are_the_papers() -> None:
    """arXiv 2407.13377: base, 1.6 h an update, 300 000 updates, 5e-4, weight decay 0.05, warm-up over a tenth."""
    config = load("run.seed=0")
    assert config == PretrainConfig()
    assert config.encoder == encoder_config("base")
    assert config.batch.update_s == pytest.approx(1.6 * 3600)
    assert (config.run.updates, config.optim.warmup_fraction) == (300_000, 0.1)
    assert (config.optim.lr, config.optim.weight_decay) == (5e-4, 0.05)
    goal = config.objective
    assert (goal.mask_prob, goal.mask_span_frames, goal.distractors, goal.logit_temperature) == (0.65, 10, 100, 0.1)
    assert (goal.codebooks, goal.entries, goal.code_dim, goal.diversity_weight) == (2, 320, 256, 0.1)
    assert (goal.gumbel_start, goal.gumbel_end) == (2.0, 0.25)


def test_the_path_of_a_config_may_hold_an_equals_sign(
    tmp_path: Path, yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs/lr=3e-4/config.yaml"
    path.parent.mkdir(parents=True)
    yaml.rename(path)
    monkeypatch.chdir(tmp_path)
    assert load("runs/lr=3e-4/config.yaml", "data.train=b").encoder.num_layers == 5
    monkeypatch.chdir(path.parent)
    (path.parent / "a=b.yaml").write_text("size: small\n")
    assert load("a=b.yaml").size == "small"
    assert load("data.train=a/b.yaml").data.train == "a/b.yaml", "a value, not a config"


@pytest.mark.slow
def test_the_config_imports_nothing_of_the_data() -> None:
    code = (
        "import sys, pretrain.config\n"
        "heavy = {'datasets', 'pyarrow', 'mixvec.data.sources', 'mixvec.data.batches'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_values_are_read_as_their_types(yaml: Path) -> None:
    config = load(str(yaml))
    assert config.optim.lr == 3e-4
    assert isinstance(config.optim.lr, float)
    assert isinstance(config.optim.clip_norm, float)
    config = load("encoder.conv_strides=[2,2]", "optim.betas=[0.9,0.98]", "data.train=[a,b c]", "run.dir=x y")
    assert config.encoder.conv_strides == (2, 2)
    assert config.optim.betas == (0.9, 0.98)
    assert (config.data.train, config.run.dir) == (["a", "b c"], "x y")
    assert hash(config.encoder)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["optim.lrr=1"], r"optim\.lrr=1: .*'lr'"),
        (["data.trian=x"], r"data\.trian=x: .*'train'"),
        (["optm.lr=1"], r"optm\.lr=1: .*'optim'"),
        (["optim.lr=fast"], r"optim\.lr=fast: .*'fast'"),
        (["run.updates=1.5"], r"run\.updates=1\.5: .*Integer"),
        (["run=3"], r"run=3: .*PretrainRun"),
        (["run.dir="], r"run\.dir=: .*None"),
        (["optim.betas=[0.9]"], r"optim\.betas=\[0\.9\]: .*length 1"),
        (["data.train=[a"], r"data\.train=\[a: .*YAML"),
        (["run.seed=${nope}"], r"run\.seed: .*'nope'"),
        (["run.precision=fp8"], r"run\.precision=fp8: .*'fp8'.*'auto', 'fp32'"),
        (["encoder.mixer=summry"], r"encoder\.mixer=summry: .*'summary', 'summary-lite', 'attention'"),
        (["size=huge"], "size=huge .*tiny, small, base, large"),
        (["objective.kind=nope"], r"objective\.kind=nope .*contrastive"),
        (["size=tiny", "base.yaml"], r"'base\.yaml'"),
        (["nowhere.yaml"], r"nowhere\.yaml: "),
        (["runs/lr=3e-4/nowhere.yaml"], r"runs/lr=3e-4/nowhere\.yaml: "),
        (["encoder.heads=7"], r"encoder\.dim=768 .*encoder\.heads=7"),
        (["encoder.kind=wav2vec2"], r"encoder\.kind=wav2vec2 .*encoder\.front_end"),
        (["encoder.kind=log-mel"], r"encoder\.kind=log-mel"),
        (["batch.max_s=1"], r"batch\.max_s=1\.0 .*data\.max_s=30\.0"),
        (["data.max_skipped=1.5"], r"data\.max_skipped=1\.5 "),
        (["data.max_s=0.5"], r"data\.max_s=0\.5 .*data\.min_s=1\.0"),
        (["data.longest_share=0"], r"data\.longest_share=0\.0 "),
        (["data.longest_share=1.5"], r"data\.longest_share=1\.5 "),
        (["data.longest_share=0.5", "data.stream=true"], r"data\.longest_share"),
        (["objective.mask_prob=0"], r"objective\.mask_prob=0\.0 "),
        (["objective.mask_span_frames=1"], r"objective\.mask_span_frames=1 .*2"),
        (["objective.code_dim=3"], r"objective\.code_dim=3 .*objective\.codebooks=2"),
        (["objective.gumbel_start=0"], r"objective\.gumbel_start=0\.0 "),
        (["optim.lr=nan"], r"optim\.lr=nan .*0"),
        (["optim.warmup_fraction=30"], r"optim\.warmup_fraction=30\.0 .*1"),
        (["run.updates=0"], r"run\.updates=0 .*1"),
        (["run.keep=1"], r"run\.keep=1 .*2"),
        (["run.keep_every=1500"], r"run\.keep_every=1500 .*run\.save_every=1000"),
        (["run.stop_on=[collapse]"], r"run\.stop_on: 'collapse' .*collapsed-codebook, "),
        (["run.max_hours=0"], r"run\.max_hours=0\.0 .*null"),
        (["run.timeout_s=0"], r"run\.timeout_s=0\.0 .*1"),
        (["run.max_nonfinite=0"], r"run\.max_nonfinite=0 .*1"),
        (["probe.every=0"], r"probe\.every=0 .*1"),
        (["data.augment.speeds=[1.1]"], r"data\.augment\.speeds=\[1\.1\]: .*'speed'"),
        (["data.augment.speed=[1.0,2.5]"], r"data\.augment\.speed: 2\.5 .*\[0\.5, 2\]"),
        (["data.augment.speed=[-1.0]"], r"data\.augment\.speed: -1\.0 "),
        (["data.augment.speed=[.nan]"], r"data\.augment\.speed: nan "),
        (["data.augment.speed=[0.905]"], r"data\.augment\.speed: 0\.905 "),
        (["data.augment.noise_prob=1.5"], r"data\.augment\.noise_prob=1\.5 .*\[0, 1\]"),
        (["data.augment.reverb_prob=-1"], r"data\.augment\.reverb_prob=-1\.0 .*\[0, 1\]"),
        (["data.augment.mix_prob=.nan"], r"data\.augment\.mix_prob=nan .*\[0, 1\]"),
        (["data.augment.noise_snr_db=[15,0]"], r"data\.augment\.noise_snr_db=\[15\.0,0\.0\] "),
        (["data.augment.mix_ratio_db=[-999,5]"], r"data\.augment\.mix_ratio_db=\[-999\.0,5\.0\] "),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(arguments: list[str], names: str) -> None:
    with pytest.raises(UserError, match=names) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("optim: {lrr: 1}\n", r"own\.yaml: optim\.lrr: .*'lr'"),
        ("optim: {lr: fast}\n", r"own\.yaml: optim\.lr: .*'fast'"),
        ("optim:\n", r"own\.yaml: .*'optim'"),
        ("- a\n", r"own\.yaml: .*mapping"),
        ("3\n", r"own\.yaml: .*YAML"),
        ("a: [\n", r"own\.yaml: .*YAML"),
        ("size: tiny\nsize: base\n", r"own\.yaml: .*YAML"),
        ("\udcff", r"own\.yaml: .*YAML"),
    ],
)
def test_a_wrong_yaml_is_one_line_that_names_the_file(tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "own.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=names) as caught:
        load(str(tmp_path / "own.yaml"))
    assert "\n" not in str(caught.value)


def test_a_bound_from_below_allows_infinity_alone(tmp_path: Path) -> None:
    """Gradients that are never scaled down; NaN is no number."""
    assert load("optim.clip_norm=.inf").optim.clip_norm == math.inf
    with pytest.raises(UserError, match=r"optim\.clip_norm=nan must be at least 1e-06"):
        load("optim.clip_norm=.nan")


def test_help_lists_the_keys_and_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--help"], 0), ([], 2)):
        with pytest.raises(SystemExit) as caught:
            load(*arguments)
        assert caught.value.code == code
        shown = capsys.readouterr().out
        assert "usage: test" in shown
        assert "mask_span_frames: 10" in shown


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads_and_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    config = load(str(path), "data.train=speech")
    assert config.encoder.dim == encoder_config(config.size).dim
    written = tmp_path / "config.yaml"
    text = write_config(config, written)
    assert written.read_text() == text
    again = load(str(written))
    assert again == config
    assert changed_keys(config, again) == []


def test_changed_keys() -> None:
    old = load("size=tiny", "run.dir=a")
    new = load(
        "size=tiny", "run.dir=b", "data.workers=0", "run.save_every=7", "optim.lr=1e-3", "encoder.conv_strides=[2,1]"
    )
    assert changed_keys(old, new) == ["encoder.conv_strides ((2, 2) → (2, 1))", "optim.lr (0.0005 → 0.001)"]
    assert changed_keys(old, load("size=small"))[0] == "size (tiny → small)"
    augmented = load("size=tiny", "data.augment.speed=[0.9,1.1]", "data.augment.noise=DIR")
    assert changed_keys(old, augmented) == ["data.augment.speed (() → (0.9, 1.1))", "data.augment.noise (None → DIR)"]


def test_a_full_disk_leaves_the_written_config_as_it_was(tmp_path: Path) -> None:
    """Otherwise a run that is started again on a full disk would have lost its own settings."""
    path = tmp_path / "config.yaml"
    text = write_config(PretrainConfig(), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError):
            write_config(PretrainConfig(size="tiny"), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]
