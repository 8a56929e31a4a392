"""Paths are paths: in every key that names files they arrive as typed, from the command line and from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.config import FinetuneConfig
from mixvec import UserError
from mixvec.data.sources import find_utterances
from mixvec.training.config import load_config, read_config, write_config
from mixvec.training.paths import PATHS, SOURCES
from pretrain.config import PretrainConfig
from tests.readers import write

NAMES = ["~/runs/x", "007", "12:30:45", "2024_11_28", "1e5", "3.10", "yes", "off", "exp #2", "a=b", "a, b", "x y",
         "[1] b", "{x}", "$HOME", "a${b}", "0x1F", "-", "'q'", "a: b", "%d", "&a", "*.wav", "@x", "été"]  # fmt: skip
CLASSES = {key: FinetuneConfig if key in ("pretrained", "cache.dir", "data.valid", "data.test") else PretrainConfig
           for key in PATHS + SOURCES}  # fmt: skip


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("key", CLASSES)
def test_as_typed(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["objective.kind=units", "objective.targets=layer"] if key == "objective.teacher" else []
    for name in NAMES:
        if key in SOURCES and name[0] in "[{":
            Path(name).mkdir(exist_ok=True)  # else it is a list
        given = load_config(CLASSES[key], [f"{key}={name}", *more], "")
        assert value_of(given, key) == name
        write_config(given, tmp_path / "written.yaml")
        assert value_of(read_config(CLASSES[key], tmp_path / "written.yaml"), key) == name
    top, *below = key.split(".")
    for name in ("007", "12:30:45", "2024_11_28", "1e5", "yes", "~/x", "3.10"):  # what YAML takes without quotes
        nested = f"{below[-1]}: {name}" if below else ""
        lines = f"{top}: {name}" if not below else f"{top}: {{{nested}}}"
        if len(below) == 2:
            lines = f"{top}: {{{below[0]}: {{{nested}}}}}"
        (tmp_path / "c.yaml").write_text(lines + "\n")
        assert value_of(load_config(CLASSES[key], ["c.yaml", *more], ""), key) == name


def test_lists_keep_names_and_weights() -> None:
    config = load_config(PretrainConfig, ["data.train=[007, {source: 2024_11_28, weight: 2.5}, ~/x]"], "")
    assert list(config.data.train) == ["007", {"source": "2024_11_28", "weight": 2.5}, "~/x"]
    assert load_config(FinetuneConfig, ["data.valid=null", "pretrained=null"], "").pretrained is None
    with pytest.raises(UserError, match=r"data\.train=\[a"):
        load_config(PretrainConfig, ["data.train=[a"], "")


def test_home_is_found_and_no_folder_is_called_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "home" / "audio" / "a.wav")
    assert len(find_utterances("~/audio", "data.train").utterances) == 1
    assert len(find_utterances("~/au*", "data.train").utterances) == 1
    assert load_config(PretrainConfig, ["run.dir=~/runs/x"], "").run.folder == tmp_path / "home" / "runs" / "x"
    (tmp_path / "home" / "c.yaml").write_text(yaml.safe_dump({"run": {"updates": 7}}))
    assert load_config(PretrainConfig, ["~/c.yaml"], "").run.updates == 7
