"""The configuration that every run has in common, and how a configuration is merged, checked, written and compared."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, is_dataclass, replace
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


def check_at_least(config: Any, bounds: dict[str, float], prefix: str = "") -> None:
    """Raise ValueError naming the first dotted key, after ``prefix``, whose value is below its bound or no number."""
    for key, bound in bounds.items():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        if not value >= bound:
            raise ValueError(f"{prefix}{key}={value} must be at least {bound:g}")


def check_names(stop_on: tuple[str, ...], diagnoses: tuple[str, ...]) -> None:
    """Raise ValueError where ``run.stop_on`` names what is none of ``diagnoses``."""
    for name in stop_on:
        if name not in diagnoses:
            raise ValueError(f"run.stop_on: {name!r} is not a diagnosis; choose among {', '.join(diagnoses)}")


def check_run(config: Any) -> None:
    """What every run's numbers must satisfy, pretraining or fine-tuning. Raises ValueError naming the key."""
    bounds = {"run.updates": 1, "run.log_every": 1, "run.save_every": 1, "run.keep": 2, "run.keep_every": 0,
              "run.timeout_s": 1, "run.max_nonfinite": 1, "data.workers": 0, "batch.update_s": 1e-3,
              "batch.max_s": 1e-3, "data.min_s": 0, "optim.lr": 0, "optim.warmup_fraction": 0,
              "optim.clip_norm": 1e-6}  # fmt: skip
    check_at_least(config, bounds)
    if config.run.max_hours is not None and not config.run.max_hours > 0:
        raise ValueError(f"run.max_hours={config.run.max_hours} must be above 0, or null for no limit")
    if config.run.keep_every % config.run.save_every:
        raise ValueError(
            f"run.keep_every={config.run.keep_every} must be a multiple of run.save_every={config.run.save_every}, or 0"
        )
    for name in config.run.trackers:
        if name not in TRACKERS:
            raise ValueError(f"run.trackers: {name!r} is not a tracker; choose among {', '.join(TRACKERS)}")
    if config.optim.warmup_fraction > 1:
        raise ValueError(f"optim.warmup_fraction={config.optim.warmup_fraction} is a fraction of the run, at most 1")
    if not 0.0 <= config.data.max_skipped <= 1.0:
        raise ValueError(f"data.max_skipped={config.data.max_skipped} is a share of the utterances, between 0 and 1")
    if config.data.max_s < config.data.min_s:
        raise ValueError(f"data.max_s={config.data.max_s} is below data.min_s={config.data.min_s}")
    if config.batch.max_s < config.data.max_s:
        raise ValueError(
            f"batch.max_s={config.batch.max_s} cannot hold an utterance of data.max_s={config.data.max_s} seconds"
        )


def load_config(cls: type[Config], arguments: list[str], usage: str) -> Config:
    """Merge defaults ← ``size`` ← YAML ← ``key=value`` into a ``cls``.

    Args:
        arguments: ``[CONFIG.yaml] [key=value ...]``, as on the command line.
        usage: what to print for ``--help``.

    Raises:
        UserError: no such file, an unknown key (with the nearest right one), or an impossible value.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage + "\n\nKeys and defaults:\n\n" + OmegaConf.to_yaml(OmegaConf.structured(cls)))
        sys.exit(0 if arguments else 2)
    path = Path(arguments[0]).expanduser() if _is_path(arguments[0]) else None
    dotted = arguments[1:] if path else arguments
    wrong = [argument for argument in dotted if "=" not in argument]
    if wrong:
        raise UserError(f"{wrong[0]!r} is not of the form key=value")
    parts = [(str(path), _read_yaml(path))] if path else []
    config, merged = _merged(cls, parts + [(argument, _read_argument(argument)) for argument in dotted])
    _check_complete(OmegaConf.to_container(merged), "")
    return config


def read_config(cls: type[Config], path: Path) -> Config:
    """The configuration that ``write_config`` wrote to ``path``, to compare with another: it may lack secrets of URLs.

    Raises:
        UserError: it is of another class or version, or damaged.
    """
    return _merged(cls, [(str(path), _read_yaml(path))])[0]


def _merged(cls: type[Config], parts: list[tuple[str, Any]]) -> tuple[Config, Any]:
    """The defaults with each part merged in, in order, as a ``cls`` and as OmegaConf has it; a part has its origin."""
    try:
        merged: Any = _defaults(cls, OmegaConf.merge(*(part for _, part in parts)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error)) from error
    for where, part in parts:
        try:
            merged = OmegaConf.merge(merged, part)
        except OmegaConfBaseException as error:
            key = where.partition("=")[0] + ": "
            raise UserError(f"{where}: {_one_line(error).removeprefix(key)}") from error
    try:
        return OmegaConf.to_object(merged), merged  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error)) from error


def _check_complete(value: Any, key: str) -> None:
    """Raise UserError naming the first key whose URL lost its secrets when a run wrote its config.yaml."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_complete(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            for leaf in item.values() if isinstance(item, dict) else [item]:
                _check_complete(leaf, key)
    elif isinstance(value, str) and is_redacted(value):
        raise UserError(f"{key}={value}: the user, password or query of this URL is not kept in a run's config.yaml; "
                        f"pass it again on the command line, as '{key}=URL'")  # fmt: skip


def _is_path(argument: str) -> bool:
    """Whether the first argument names a config file, though its path may have an equals sign in it."""
    return "=" not in argument or "/" in argument.partition("=")[0] or Path(argument).is_file()


def _defaults(cls: type[Config], given: Any) -> DictConfig:
    """The defaults that everything else is merged into; a class may choose them by what is given.

    ``size`` fills ``encoder``; a classmethod ``defaults(given)`` chooses among section classes.
    """
    values = OmegaConf.to_container(given) if isinstance(given, DictConfig) else {}
    default: Any = getattr(cls, "defaults", lambda _: cls())(values)
    size = given.get("size", None) if isinstance(given, DictConfig) else None
    if size is not None and hasattr(default, "encoder"):
        default = replace(default, encoder=encoder_config(str(size)))
    return OmegaConf.structured(default)  # type: ignore[no-any-return]


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    try:
        config = OmegaConf.load(path)
        if isinstance(config, DictConfig):
            typed_paths(config, path.read_text(encoding="utf-8"))
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not readable YAML: {_one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path}: a config is a mapping of keys to values")
    return config


def _read_argument(argument: str) -> DictConfig:
    try:
        return path_argument(argument) or OmegaConf.from_dotlist([argument])
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"{argument}: not a value that YAML can read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), None)
    what = lines[0] if lines else type(error).__name__
    return f"{key}: {what}" if key and key not in what else what


def write_config(config: Any, path: Path) -> str:
    """The merged configuration as YAML, written to ``path``, without what may be secret in a URL."""
    text: str = redacted(OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_whole(path, text)
    return text


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
