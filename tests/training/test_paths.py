"""Paths are paths: in every key that names files they arrive as typed, from the command line and from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from finetune.config import FinetuneConfig
from mixvec import UserError
from mixvec.data.sources import find_utterances
from mixvec.training.config import load_config, read_config, write_config
from mixvec.training.paths import LISTED, PATHS, SOURCES, path_argument
from pretrain.config import PretrainConfig
from tests.readers import write

NAMES = ["~/runs/x", "007", "12:30:45", "2024_11_28", "1e5", "3.10", "yes", "off", "exp #2", "a=b", "a, b", "x y",
         "[1] b", "{x}", "$HOME", "a${b}", "0x1F", "-", "'q'", "a: b", "%d", "&a", "*.wav", "@x", "été"]  # fmt: skip
PLAIN = ("007", "12:30:45", "2024_11_28", "1e5", "yes", "~/x", "3.10")
"""Names that YAML takes without quotes."""
FINETUNING = ("pretrained", "cache.dir", "data.valid", "data.test", "speaker.trials", "data.label", "intent.rest")
CLASSES = {key: FinetuneConfig if key in FINETUNING else PretrainConfig
           for key in (*PATHS, *SOURCES, "data.label", "intent.rest")}  # fmt: skip


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(("number", "key"), list(enumerate(CLASSES)))
def test_as_typed(number: int, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name for every key, of which each key has its share of names in whole configurations."""
    monkeypatch.chdir(tmp_path)
    more = ["objective.kind=units", "objective.targets=layer"] if key == "objective.teacher" else []
    for name in NAMES:
        if key in LISTED and name[0] in "[{":
            Path(name).mkdir(exist_ok=True)  # else it is a list
        assert OmegaConf.select(path_argument(f"{key}={name}"), key) == name
    top, *below = key.split(".")
    nested = {below[-1]: "NAME"} if below else "NAME"
    text = yaml.safe_dump({top: {below[0]: nested} if len(below) == 2 else nested})
    for name in NAMES[number :: len(CLASSES)]:
        given = load_config(CLASSES[key], [f"{key}={name}", *more], "")
        assert value_of(given, key) == name
        write_config(given, tmp_path / "written.yaml")
        assert value_of(read_config(CLASSES[key], tmp_path / "written.yaml")[0], key) == name
    for name in PLAIN[number % 3 :: 3]:
        (tmp_path / "c.yaml").write_text(text.replace("NAME", name))
        assert value_of(load_config(CLASSES[key], ["c.yaml", *more], ""), key) == name


def test_lists_keep_names_and_weights() -> None:
    config = load_config(PretrainConfig, ["data.train=[007, {source: 2024_11_28, weight: 2.5}, ~/x]"], "")
    assert list(config.data.train) == ["007", {"source": "2024_11_28", "weight": 2.5}, "~/x"]
    assert load_config(FinetuneConfig, ["data.valid=null", "pretrained=null"], "").pretrained is None
    with pytest.raises(UserError, match=r"data\.train=\[a"):
        load_config(PretrainConfig, ["data.train=[a"], "")


def test_labels_and_fields_are_texts() -> None:
    """Of a list in brackets and of one in a file, which may be quoted."""
    typed, labels = '[on,no,007,1.0,null,"yes",12:30]', ("on", "no", "007", "1.0", "null", "yes", "12:30")
    config = load_config(FinetuneConfig, [f"intent.keep={typed}", f"data.label={typed}", f"slots.order={typed}"], "")
    assert config.intent.keep == tuple(config.data.label) == config.slots.order == labels


def test_home_is_found_and_no_folder_is_called_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "home" / "audio" / "a.wav")
    assert len(find_utterances("~/audio", "data.train").utterances) == 1
    assert len(find_utterances("~/au*", "data.train").utterances) == 1
    assert load_config(PretrainConfig, ["run.dir=~/runs/x"], "").run.folder == tmp_path / "home" / "runs" / "x"
    (tmp_path / "home" / "c.yaml").write_text(yaml.safe_dump({"run": {"updates": 7}}))
    assert load_config(PretrainConfig, ["~/c.yaml"], "").run.updates == 7
