"""The configuration that every run has in common, and how a configuration is merged, checked, written and compared."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..atomic import write_whole
from ..errors import UserError, is_redacted, redacted
from ..model.config import encoder_config
from .paths import path_argument, typed_paths


@dataclass(frozen=True)
class BatchConfig:
    """The batch in seconds of audio. Accumulation follows from both and from the number of ranks."""

    update_s: float = 5760.0
    """Seconds of audio per update, over all ranks and micro-batches: 1.6 h."""
    max_s: float = 360.0
    """Seconds of padded audio that one device takes at once."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and linear decay to zero, both fractions of the run."""

    lr: float = 5e-4
    """Highest learning rate, reached at the end of the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    warmup_fraction: float = 0.1
    """Share of the run in which the learning rate rises."""
    clip_norm: float = 100.0
    """Gradients with a larger norm are scaled down to it."""


@dataclass(frozen=True)
class RunConfig:
    """Where the run is stored, how long it is, how often it logs and saves."""

    dir: str = "runs/pretrain"
    """The run directory; a run that exists there is resumed."""
    updates: int = 300_000
    """Length of the run in updates."""
    seed: int = 0
    """Seed of weights, batches, masks and noise."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    log_every: int = 50
    """Updates between two log lines."""
    save_every: int = 1000
    """Updates between two checkpoints."""
    keep: int = 2
    """Checkpoints kept, the newest first; at least 2, so that one is complete while another is written."""
    keep_every: int = 0
    """Checkpoints of every so many updates are kept for good; a multiple of ``save_every``, or 0 for none."""
    max_hours: float | None = None
    """Hours after which one session finishes its update, saves and ends with exit code 75; null for no limit."""
    timeout_s: float = 600.0
    """How long a rank waits for the others before it fails."""
    max_nonfinite: int = 10
    """Updates in a row that may be left out because a loss or gradient is not finite."""
    accept_new_data: bool = False
    """Whether to resume although the training data is not what it was at the last checkpoint, in a new epoch."""

    @property
    def folder(self) -> Path:
        """The run directory, ``~`` expanded."""
        return Path(self.dir).expanduser()

    trackers: tuple[str, ...] = ("tensorboard",)
    """Where the log goes besides ``metrics.jsonl``: some of tensorboard, wandb, trackio, mlflow, or [] for none."""


Config = TypeVar("Config")

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
KEEP_ON_RESUME = {
    "data.workers", "data.max_skipped", "run.dir", "run.log_every", "run.save_every", "run.keep",
    "run.keep_every", "run.max_hours", "run.timeout_s", "run.max_nonfinite", "run.stop_on",
    "run.accept_new_data", "run.trackers",
    "cache.dir", "probe.data", "probe.every", "probe.max_utterances", "probe.max_s",
}  # fmt: skip
"""Keys that may differ when a run resumes: they change nothing that is computed."""
REMOVED: dict[str, tuple[Any, str]] = {"data.gate": ({"below_db": None}, "eb6118c"), "data.text": ("plain", "2f5b3cc")}
"""Keys of earlier versions: the value with which a run resumes without them, and the last commit that had them. Of any
other key that is no more, null is such a value."""


def check_at_least(config: Any, bounds: Mapping[str, float], prefix: str = "") -> None:
    """Raise ValueError naming the first dotted key, after ``prefix``, whose value is below its bound or no number."""
    check_ranges(config, {key: f"[{bound:g}, inf]" for key, bound in bounds.items()}, prefix)


def check_ranges(config: Any, ranges: Mapping[str, str], prefix: str = "") -> None:
    """Raise ValueError naming the first dotted key, after ``prefix``, whose value is not in an interval: ``(0, 1]``.

    None is in all of them.
    """
    for key, interval in ranges.items():
        value, (low, high) = attrgetter(key)(config), map(float, interval[1:-1].split(","))
        ends = [end for end, bracket in ((low, "["), (high, "]")) if bracket in interval]
        if value is None or low < value < high or value in ends:
            continue
        wanted = f"at least {low:g}" if interval.startswith("[") and math.isinf(high) else f"in {interval}"
        raise ValueError(f"{prefix}{key}={value} must be {wanted}")


def check_names(names: tuple[str, ...], known: tuple[str, ...], key: str = "run.stop_on") -> None:
    """Raise ValueError where the list at ``key`` names what is not ``known``."""
    for name in names:
        if name not in known:
            raise ValueError(f"{key}: {name!r} is unknown; choose among {', '.join(known)}")


def check_run(config: Any) -> None:
    """What every run's numbers must satisfy, pretraining or fine-tuning. Raises ValueError naming the key."""
    bounds = {"run.updates": 1, "run.log_every": 1, "run.save_every": 1, "run.keep": 2, "run.keep_every": 0,
              "run.timeout_s": 1, "run.max_nonfinite": 1, "data.workers": 0, "batch.update_s": 1e-3,
              "batch.max_s": 1e-3, "data.min_s": 0, "optim.lr": 0, "optim.warmup_fraction": 0,
              "optim.clip_norm": 1e-6}  # fmt: skip
    check_at_least(config, bounds)
    run, data, batch = config.run, config.data, config.batch
    if run.max_hours is not None and not run.max_hours > 0:
        raise ValueError(f"run.max_hours={run.max_hours} must be above 0, or null for no limit")
    if run.keep_every % run.save_every:
        raise ValueError(f"run.keep_every={run.keep_every} must be a multiple of run.save_every={run.save_every}, or 0")
    check_names(run.trackers, TRACKERS, "run.trackers")
    if config.optim.warmup_fraction > 1:
        raise ValueError(f"optim.warmup_fraction={config.optim.warmup_fraction} is a fraction of the run, at most 1")
    if not 0.0 <= data.max_skipped <= 1.0:
        raise ValueError(f"data.max_skipped={data.max_skipped} is a share of the utterances, between 0 and 1")
    if data.max_s < data.min_s:
        raise ValueError(f"data.max_s={data.max_s} is below data.min_s={data.min_s}")
    if batch.max_s < data.max_s:
        raise ValueError(f"batch.max_s={batch.max_s} cannot hold an utterance of data.max_s={data.max_s} seconds")


def load_config(cls: type[Config], arguments: list[str], usage: str) -> Config:
    """Merge defaults ← ``size`` ← YAML ← ``key=value`` into a ``cls``; ``usage`` is printed for ``--help``.

    Raises:
        UserError: no such file, an unknown key (with the nearest right one), or an impossible value.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage + "\n\nKeys and defaults:\n\n" + OmegaConf.to_yaml(OmegaConf.structured(cls)))
        sys.exit(0 if arguments else 2)
    first = arguments[0]  # a file, though its path may have an equals sign in it
    given = "=" not in first or "/" in first.partition("=")[0] or Path(first).is_file()
    path, dotted = Path(first).expanduser(), arguments[given:]
    wrong = [argument for argument in dotted if "=" not in argument]
    if wrong:
        raise UserError(f"{wrong[0]!r} is not of the form key=value")
    parts = [(str(path), _read_yaml(path))] if given else []
    for argument in dotted:
        with _one_line(f"{argument}: not a value that YAML can read: "):
            parts.append((argument, path_argument(argument) or OmegaConf.from_dotlist([argument])))
    config, merged = _merged(cls, parts)
    for key, value in flat(OmegaConf.to_container(merged)).items():
        if is_redacted(str(value)):
            raise UserError(f"{key}={value}: the user, password or query of this URL is not kept in a run's "
                            f"config.yaml; pass it again on the command line, as '{key}=URL'")  # fmt: skip
    return config


def read_config(cls: type[Config], path: Path) -> tuple[Config, list[str]]:
    """The configuration that a run wrote, to compare with another, and the keys in it that are no more (``REMOVED``).

    Raises:
        UserError: it is of another class or damaged, or a key that is no more was used.
    """
    stored, removed = _read_yaml(path), list[str]()
    with _one_line():
        unknown = dict(_unknown(stored, OmegaConf.to_container(_defaults(cls, stored))))
    for key, value in unknown.items():
        off, commit = REMOVED.get(key, (None, ""))
        if not (off.items() <= value.items() if isinstance(off, dict) and isinstance(value, dict) else value == off):
            last = f"; the last commit that has it is {commit}" if commit else ""
            raise UserError(f"{key}={value}: this version has no such key{last}")
        removed.append(key)
    return _merged(cls, [(str(path), stored)])[0], removed


def _unknown(stored: Any, known: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Take what ``known`` has no key for out of ``stored``: each dotted key with its value."""
    for name in list(stored):
        if name not in known:
            value = stored.pop(name)
            yield prefix + str(name), OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        elif isinstance(known[name], dict) and isinstance(stored[name], DictConfig):
            yield from _unknown(stored[name], known[name], f"{prefix}{name}.")


def _merged(cls: type[Config], parts: list[tuple[str, Any]]) -> tuple[Config, Any]:
    """The defaults with each part merged in, in order, as a ``cls`` and as OmegaConf has it; a part has its origin."""
    with _one_line():
        merged: Any = _defaults(cls, OmegaConf.merge(*(part for _, part in parts)))
    for where, part in parts:
        with _one_line(f"{where}: "):
            merged = OmegaConf.merge(merged, part)
    with _one_line():
        return OmegaConf.to_object(merged), merged  # type: ignore[return-value]


def _defaults(cls: type[Config], given: Any) -> DictConfig:
    """The defaults that everything else is merged into; a class may choose them by what is given.

    ``size`` fills ``encoder``; a classmethod ``defaults(given)`` chooses among section classes.
    """
    values: Any = OmegaConf.to_container(given) if isinstance(given, DictConfig) else {}
    default: Any = getattr(cls, "defaults", lambda _: cls())(values)
    if values.get("size") is not None and hasattr(default, "encoder"):
        default = replace(default, encoder=encoder_config(str(values["size"])))
    return OmegaConf.structured(default)  # type: ignore[no-any-return]


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    with _one_line(f"{path}: not readable YAML: "):
        config = OmegaConf.load(path)
        if isinstance(config, DictConfig):
            typed_paths(config, path.read_text(encoding="utf-8"))
            return config
    raise UserError(f"{path}: a config is a mapping of keys to values")


@contextmanager
def _one_line(start: str = "") -> Iterator[None]:
    """Raise a UserError of one line that begins with ``start`` for what parsers and the checks of a config raise."""
    try:
        yield
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
        line = f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]
        raise UserError(start + line.removeprefix(start.partition("=")[0] + ": ")) from error


def write_config(config: Any, path: Path) -> str:
    """The merged configuration as YAML, written to ``path``, without what may be secret in a URL."""
    text: str = redacted(OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_whole(path, text)
    return text


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys; lists are written as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, int | float | str | None) else str(value)
    return found


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The dotted keys in which two configurations of one class differ, except ``KEEP_ON_RESUME``."""
    keys: list[str] = []
    for item in fields(new):
        key, a, b = prefix + item.name, getattr(old, item.name), getattr(new, item.name)
        if is_dataclass(b) and type(a) is not type(b):
            keys.append(f"{key}.kind ({getattr(a, 'kind', a)} → {getattr(b, 'kind', b)})")
        elif is_dataclass(b):
            keys += changed_keys(a, b, key + ".")
        elif a != b and redacted(str(a)) != redacted(str(b)) and key not in KEEP_ON_RESUME:
            keys.append(f"{key} ({a} → {b})")
    return keys
