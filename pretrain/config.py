"""What a pretraining run is, as data: defaults equal arXiv 2407.13377, YAML and ``key=value`` state differences."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mixvec import EncoderConfig, UserError, encoder_config
from mixvec.atomic import write_whole
from mixvec.errors import redacted

from .augment import WaveformAugmentConfig
from .gate import GateConfig
from .objective import ObjectiveConfig


@dataclass(frozen=True)
class DataConfig:
    """Which audio, and how it is read."""

    train: Any = None
    """A folder at any depth, a manifest, tars, Parquet, a corpus as it unpacks, a hub name, a glob, or a list of these,
    {source: DIR, weight: 2} among them (``pretrain/sources.py`` has them all)."""
    temperature: float = 1.0
    """Sources in a list share an epoch as weight × hours^(1/temperature); 1 takes them as they are."""
    min_s: float = 1.0
    """Shorter utterances are skipped and counted."""
    max_s: float = 30.0
    """Longer ones are cut into stretches of even length, at most this, which cover all of them; or as ``gate`` says."""
    longest_share: float = 1.0
    """Only the longest utterances, after cutting, that make up this share of the hours (arXiv 2601.20896)."""
    gate: GateConfig = field(default_factory=GateConfig)
    """An energy gate for what is longer than ``max_s`` (``pretrain/gate.py``); off unless ``below_db`` is set."""
    workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""
    max_skipped: float = 1.0
    """The largest share of the utterances that may be skipped as unreadable, when they are found or when an epoch
    decodes them, before the run stops; 1 never stops."""
    stream: bool = False
    """Read as it lies, each rank its own shards, with nothing looked through first (``pretrain/stream.py``)."""
    buffer_s: float = 3600.0
    """What each rank of a streamed run holds, undecoded, to choose utterances of like duration from."""
    augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    """What is done to the waveforms; nothing by default. ``min_s`` is before, ``max_s`` after a change of speed."""


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
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    clip_norm: float = 100.0


@dataclass(frozen=True)
class ProbeConfig:
    """A small labelled set that shows what the encoder is worth while it trains (``pretrain/probe.py``)."""

    data: Any = None
    """Any source as ``data.train`` takes it, with a label for each utterance (``intent``, ``label``); null: none."""
    every: int = 250
    """It is scored at the first log line after every so many updates, and at the last."""
    max_utterances: int = 400
    max_s: float = 600.0
    """Seconds of audio in all. As many utterances are taken as both allow, evenly over the labels."""


@dataclass(frozen=True)
class RunConfig:
    """Where the run lives, how long it is, how often it speaks and saves."""

    dir: str = "runs/pretrain"
    updates: int = 300_000
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2
    """Checkpoints kept, the newest first; at least 2, so that one is whole while another is written."""
    keep_every: int = 0
    """Checkpoints of every so many updates are kept for good; a multiple of ``save_every``, or 0 for none."""
    max_hours: float | None = None
    """Hours after which one session finishes its update, saves and ends with exit code 75; null for no limit."""
    timeout_s: float = 600.0
    """How long a rank waits for the others before it gives up."""
    max_nonfinite: int = 10
    """Updates in a row that may be left out because a loss or gradient is not finite."""


DIAGNOSES = ("collapsed-codebook", "stuck-at-chance", "exploding-gradient", "dimensional-collapse", "starved-loader",
             "schedule-too-long", "small-batch")  # fmt: skip


@dataclass(frozen=True)
class PretrainRun(RunConfig):
    compile: Literal["auto", True, False] = "auto"
    """torch.compile of the encoder's blocks (``pretrain/compiling.py``); auto: on a GPU."""
    stop_on: tuple[str, ...] = ()
    """Diagnoses that end the run, with a checkpoint and an error; the names are those that the warnings bear."""


@dataclass(frozen=True)
class PretrainConfig:
    """A whole run. ``size`` fills ``encoder`` before anything else is read."""

    size: str = "base"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    run: PretrainRun = field(default_factory=PretrainRun)

    def __post_init__(self) -> None:
        check_run(self)
        at_least = {"data.temperature": 0.1, "data.buffer_s": 0, "data.gate.silence_s": 0, "data.gate.pad_s": 0,
                    "objective.distractors": 1, "objective.mask_span_frames": 2, "objective.codebooks": 1,
                    "objective.entries": 2, "objective.logit_temperature": 1e-6, "objective.gumbel_start": 1e-6,
                    "objective.gumbel_end": 1e-6, "objective.gumbel_fraction": 0, "probe.every": 1,
                    "probe.max_utterances": 4, "probe.max_s": 1}  # fmt: skip
        check_at_least(self, at_least)
        if self.encoder.kind not in ("mixvec", "wav2vec2"):
            raise ValueError(f"encoder.kind={self.encoder.kind} has nothing to pretrain; choose mixvec or wav2vec2")
        if not 0.0 < self.objective.mask_prob <= 1.0:
            raise ValueError(f"objective.mask_prob={self.objective.mask_prob} must lie in (0, 1]")
        if self.objective.code_dim % self.objective.codebooks:
            raise ValueError("objective.code_dim must be a multiple of objective.codebooks")
        if not 0.0 < self.data.longest_share <= 1.0:
            raise ValueError(f"data.longest_share={self.data.longest_share} is a share of the hours: over 0, at most 1")
        if self.data.gate.below_db is not None and not self.data.gate.below_db > 0:
            raise ValueError(f"data.gate.below_db={self.data.gate.below_db} must be over 0 dB, or null for no gate")
        if self.data.stream and self.data.temperature != 1.0:
            raise ValueError("data.temperature needs the hours of each corpus, unknown to data.stream; give weights")
        if self.data.stream and (self.data.longest_share < 1.0 or self.data.gate.below_db is not None):
            raise ValueError("data.longest_share and data.gate look at all utterances first, as no data.stream can")
        check_names(self.run.stop_on, DIAGNOSES)


Config = TypeVar("Config")

KEEP_ON_RESUME = {
    "data.workers", "data.max_skipped", "run.dir", "run.log_every", "run.save_every", "run.keep",
    "run.keep_every", "run.max_hours", "run.timeout_s", "run.max_nonfinite", "run.stop_on",
    "cache.dir", "probe.data", "probe.every", "probe.max_utterances", "probe.max_s",
}  # fmt: skip
"""Keys that may differ when a run goes on: they change nothing that is computed."""


def check_at_least(config: Any, bounds: dict[str, float]) -> None:
    """Raise ValueError naming the first dotted key whose value lies under its bound, or is not a number."""
    for key, bound in bounds.items():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        if not value >= bound:
            raise ValueError(f"{key}={value} must be at least {bound:g}")


def check_names(stop_on: tuple[str, ...], diagnoses: tuple[str, ...]) -> None:
    """Raise ValueError where ``run.stop_on`` names what is none of ``diagnoses``."""
    for name in stop_on:
        if name not in diagnoses:
            raise ValueError(f"run.stop_on: {name!r} is no diagnosis; choose among {', '.join(diagnoses)}")


def check_run(config: Any) -> None:
    """What every run's numbers must satisfy, pretraining or fine-tuning. Raises ValueError naming the key."""
    bounds = {"run.updates": 1, "run.log_every": 1, "run.save_every": 1, "run.keep": 2, "run.keep_every": 0,
              "run.timeout_s": 1, "run.max_nonfinite": 1, "data.workers": 0, "batch.update_s": 1e-3,
              "batch.max_s": 1e-3, "data.min_s": 0, "optim.lr": 0, "optim.warmup_fraction": 0,
              "optim.clip_norm": 1e-6}  # fmt: skip
    check_at_least(config, bounds)
    if config.run.max_hours is not None and not config.run.max_hours > 0:
        raise ValueError(f"run.max_hours={config.run.max_hours} must be over 0, or null for no limit")
    if config.run.keep_every % config.run.save_every:
        raise ValueError(
            f"run.keep_every={config.run.keep_every} must be a multiple of run.save_every={config.run.save_every}, or 0"
        )
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
    path = None if "=" in arguments[0] else Path(arguments[0])
    dotted = arguments[1:] if path else arguments
    wrong = [argument for argument in dotted if "=" not in argument]
    if wrong:
        raise UserError(f"{wrong[0]!r} is not of the form key=value")
    parts = [(str(path), _read_yaml(path))] if path else []
    parts += [(argument, _read_argument(argument)) for argument in dotted]
    try:
        merged: Any = _with_size(cls, OmegaConf.merge(*(part for _, part in parts)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error)) from error
    for where, part in parts:
        try:
            merged = OmegaConf.merge(merged, part)
        except OmegaConfBaseException as error:
            key = where.partition("=")[0] + ": "
            raise UserError(f"{where}: {_one_line(error).removeprefix(key)}") from error
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error)) from error


def _with_size(cls: type[Config], given: Any) -> DictConfig:
    default = cls()
    size = given.get("size", None) if isinstance(given, DictConfig) else None
    if size is None or not hasattr(default, "encoder"):
        return OmegaConf.structured(default)  # type: ignore[no-any-return]
    return OmegaConf.structured(replace(default, encoder=encoder_config(str(size))))  # type: ignore[call-overload,no-any-return]


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    try:
        config = OmegaConf.load(path)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not readable YAML: {_one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path}: a config is a mapping of keys to values")
    return config


def _read_argument(argument: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([argument])
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
    """The dotted keys in which two configurations of one class differ, but for ``KEEP_ON_RESUME``."""
    keys: list[str] = []
    for item in fields(new):
        key, a, b = prefix + item.name, getattr(old, item.name), getattr(new, item.name)
        if is_dataclass(b):
            keys += changed_keys(a, b, key + ".")
        elif a != b and redacted(str(a)) != redacted(str(b)) and key not in KEEP_ON_RESUME:
            keys.append(f"{key} ({a} → {b})")
    return keys
