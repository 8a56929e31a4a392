"""The model card: what the model is, how to use it, how it was trained, what it scored, its limits. What is known."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import PurePath
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from .model import TaskModel
from .model.pretrained import ENCODER


class Way(NamedTuple):
    """A way to load the model: what it needs, and the lines of a program or a command."""

    needs: str
    language: str
    code: str


def model_card(
    config: dict[str, Any], parameters: int, head: type[TaskModel] | None, name: str = "PATH_OR_NAME"
) -> str:
    """The card of a hub folder, as Markdown with the hub's YAML front matter.

    Args:
        config: the folder's ``config.json``. Of its ``training`` (all optional): ``data`` (name of the training
            data), ``text`` (how texts were normalised), ``hours_seen``, ``updates``, ``batch_s``, ``seed``,
            ``precision``, ``devices``, ``wall_s``, ``device_hours``, ``energy_kwh``, ``started_from``, ``language`` (a
            code or a list of them), ``licence``, ``metrics`` ({name: value}), ``test_data``, ``split`` and ``scored``
            (its name and the number of its utterances); ``datasets``, ``test_dataset`` and ``base_model`` (hub names).
        parameters: how many numbers the weights hold.
        head: the class of the model; None for an encoder.
        name: what to write in the examples, a path or ``org/name``.
    """
    training: dict[str, Any] = config.get("training") or {}
    encoder, metrics = config["encoder"], training.get("metrics") or {}
    form = _FORMS[encoder["kind"]].format_map(encoder)
    lines = ["---", _front_matter(config, head, name), "---", ""]
    lines += [f"# {head.title if head else 'Speech encoder'} ({form}, {parameters / 1e6:.1f} M parameters)", ""]
    lines += [f"Written by mixvec {config['mixvec_version']}. Input: 16 kHz mono audio, as it is: the model scales "
              "each recording itself.", "", "## Use", ""]  # fmt: skip
    for way in ways(config, head, name):
        lines += [f"With {way.needs}:", "", f"```{way.language}", way.code, "```", ""]
    if metrics:
        lines += [f"## Results on {_show(training.get('test_data', 'held-out data'))}", ""]
        lines += [_conditions(config, head), "", "| metric | value |", "|---|---|"]
        lines += [f"| {_show(metric)} | {100 * value:.4g} % |" if _hub_metric(metric)
                  else f"| {_show(metric)} | {value:.4g} |" for metric, value in metrics.items()] + [""]  # fmt: skip
    rows = [(label, training[key]) for key, label in _BUDGET.items() if training.get(key) is not None]
    if rows:
        lines += ["## Training budget", "", "| | |", "|---|---|"]
        lines += [f"| {label} | {_show(value)} |" for label, value in rows] + [""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in _limits(config, head)), ""]
    facts = {"log-mel": ("kind", "dim"), "transformers": ("kind", "model_type", "dim", "num_layers")}
    read = {key: encoder[key] for key in facts.get(encoder["kind"], encoder)}
    lines += ["## Encoder", "", "```json", json.dumps(read, indent=2), "```", ""]
    return "\n".join(lines)


def ways(config: dict[str, Any], head: type[TaskModel] | None, name: str) -> list[Way]:
    """The ways to load the model ``name``: transformers, where it can, mixvec, and onnxruntime."""
    found, quoted = [], json.dumps(name, ensure_ascii=False)
    auto = head.auto if head else "AutoModel"
    if "auto_map" in config and auto:
        code = _PIPELINE if head and head.pipeline else _AUTO
        output = "embeddings" if head else "last_hidden_state"
        task = head.pipeline if head else None
        found.append(Way("transformers alone", "python", code.format(name=quoted, auto=auto, task=task, output=output)))
    needs, loaded = "mixvec", f"from mixvec import {config['architecture']}"
    loader = f"{config['architecture']}.from_pretrained"
    if config["encoder"]["kind"] == "wav2vec2":
        needs = "`pip install 'mixvec[fairseq2]'`, whose encoder is fairseq2's"
    if config["encoder"]["kind"] == "transformers":
        needs = "mixvec and transformers, whose encoder it is"
    if config["architecture"] == ENCODER and config["encoder"]["kind"] != "mixvec":
        loaded, loader = "from mixvec.hub import load_encoder", "load_encoder"
    example = head.example if head else "frames, lengths, layers = model(waveform)"
    found.append(Way(needs, "python", _MIXVEC.format(loaded=loaded, loader=loader, name=quoted, example=example)))
    if head:
        found.append(Way("its command line", "bash", f"mixvec {head.command} --model {shlex.quote(name)} speech.wav"))
    if config["encoder"]["kind"] == "mixvec" and (config.get("head") or {}).get("kind") != "lstm":
        export = f"mixvec export --model {shlex.quote(name)} --to model.onnx"
        found.append(Way("onnxruntime alone, after an export", "bash", export))
    return found


_PIPELINE = """\
import soundfile
from transformers import pipeline

answer = pipeline("{task}", model={name}, trust_remote_code=True)
samples, rate = soundfile.read("speech.wav", dtype="float32")
print(answer({{"raw": samples, "sampling_rate": rate}}))"""
_AUTO = """\
import soundfile
from transformers import AutoFeatureExtractor, {auto}

extractor = AutoFeatureExtractor.from_pretrained({name})
model = {auto}.from_pretrained({name}, trust_remote_code=True)
samples, rate = soundfile.read("speech.wav", dtype="float32")
print(model(**extractor(samples, sampling_rate=rate, return_tensors="pt")).{output})"""
_MIXVEC = """\
{loaded}
from mixvec.audio import read_audio

model = {loader}({name})
waveform = read_audio("speech.wav").unsqueeze(0)
{example}"""
_FORMS = {
    "mixvec": "{mixer} {block}",
    "wav2vec2": "wav2vec 2.0 with {mixer}",
    "log-mel": "log-mel features, {dim} bins",
    "transformers": "{model_type} of transformers",
}
_BUDGET = {
    "data": "training data",
    "text": "text, as it was learned and scored",
    "started_from": "started from",
    "updates": "updates",
    "batch_s": "batch, seconds of audio per update",
    "hours_seen": "hours of audio seen",
    "wall_s": "wall time, seconds",
    "devices": "devices",
    "device_hours": "device-hours",
    "energy_kwh": "energy drawn by the GPUs, kWh",
    "precision": "precision",
    "seed": "seed",
}


def _hub_metric(score: str) -> str | None:
    """The hub's name for a score that is a fraction, shown in per cent."""
    return "f1" if score.endswith("f1") else score if score in ("wer", "cer", "accuracy", "eer") else None


def _front_matter(config: dict[str, Any], head: type[TaskModel] | None, name: str) -> str:
    """The YAML between the card's dashes, as the hub's own classes write it."""
    training: dict[str, Any] = config.get("training") or {}
    task, scores = head.pipeline if head else None, []
    for score, value in (training.get("metrics") or {}).items():
        if (kind := _hub_metric(score)) and head and math.isfinite(value):
            how = dict(decoding=_decoding(config, head), seed=training.get("seed"), utterances=training.get("scored"))
            scores.append(EvalResult(
                task_type=task or head.does.replace(" ", "-"), dataset_type=training.get("test_dataset") or "private",
                dataset_name=str(training.get("test_data", "held-out data")), dataset_split=training.get("split"),
                metric_type=kind, metric_name=score, metric_value=round(100 * value, 4),
                metric_args={key: value for key, value in how.items() if value is not None} or None,
            ))  # fmt: skip
    card = ModelCardData(
        license=training.get("licence"),
        language=training.get("language"),
        library_name="transformers" if "auto_map" in config else "mixvec",
        pipeline_tag=task,
        tags=_tags(config["encoder"], head),
        datasets=training.get("datasets"),
        base_model=training.get("base_model"),
        metrics=sorted({score.metric_type for score in scores}) or None,
        model_name=PurePath(name).name or config["architecture"],
        eval_results=scores or None,
    )
    return str(card.to_yaml())


def _tags(encoder: dict[str, Any], head: type[TaskModel] | None) -> list[str]:
    """What search engines of hubs go by; log-mel features are neither self-supervised nor mixed."""
    tags = ["speech", "mixvec", *([head.does.replace(" ", "-")] if head and not head.pipeline else [])]
    if encoder["kind"] == "log-mel":
        return tags
    return [*tags, "self-supervised", "summary-mixing" if "summary" in encoder.get("mixer", "") else "attention"]


def _decoding(config: dict[str, Any], head: type[TaskModel] | None) -> str | None:
    """How the scored answers were found."""
    if head is None or head.stored_as != "vocab.json":
        return None
    settings = config.get("head") or {}
    if "beam" in settings:
        return f"CTC (weight {settings['ctc_weight']}) and attention, beam {settings['beam']}"
    return "greedy CTC, no language model"


def _conditions(config: dict[str, Any], head: type[TaskModel] | None) -> str:
    """One sentence on how the scores came about."""
    training: dict[str, Any] = config.get("training") or {}
    seed = None if training.get("seed") is None else f"one, {training['seed']}"
    known = [("split", training.get("split")), ("utterances", training.get("scored")),
             ("decoding", _decoding(config, head)), ("training seeds", seed)]  # fmt: skip
    return "; ".join(f"{what}: {value}" for what, value in known if value) + "."


def _limits(config: dict[str, Any], head: type[TaskModel] | None) -> list[str]:
    """What the model cannot do, in plain words."""
    training, encoder = config.get("training") or {}, config["encoder"]
    found = [f"Trained on {_show(training['data'])}; speech unlike it (language, accent, noise, microphone, age of the "
             "speaker) is recognised worse, and was not measured."] if training.get("data") else []  # fmt: skip
    if not training.get("metrics"):
        found.append("There are no scores of it here.")
    if head is None:
        found.append("It computes features. For text or labels, train a head on it first.")
    elif head.stored_as == "labels.json":
        found.append("It answers with one of its labels, whatever it hears, silence and other languages included.")
    elif head.stored_as == "speakers.json":
        found.append("The threshold above which two voices are the same has to be chosen on recordings like yours. A "
                     "voice identifies a person: ask before you compare it.")  # fmt: skip
    if "beam" in (config.get("head") or {}) and "auto_map" in config:
        found.append("transformers decodes CTC alone, greedily; mixvec searches with CTC and attention together.")
    if encoder.get("normalise", "utterance") == "utterance":
        found.append("It reads a recording as a whole, so that it cannot run while someone speaks. Recordings much "
                     "longer than those of its training are recognised worse in one piece: cut them in pauses, as "
                     "`mixvec transcribe` does.")  # fmt: skip
    if "auto_map" in config:
        found.append("`trust_remote_code=True` runs the Python files of this folder: read them, and give `revision=` a "
                     "commit.")  # fmt: skip
    return found


def _show(value: Any) -> str:
    """For a cell of a table."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", "\\|")
