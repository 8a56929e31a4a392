"""The model card: what the model is, how to use it, how it was trained and what it scored. Only what is known."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

from .model import TaskModel

_USE = """\
from mixvec import {architecture}
from mixvec.audio import read_audio

model = {architecture}.from_pretrained({name})
waveform = read_audio("speech.wav").unsqueeze(0)
{example}"""
_ENCODER = ("Speech encoder", "feature-extraction", "frames, lengths, layers = model(waveform)", None)


def model_card(
    config: dict[str, Any], parameters: int, head: type[TaskModel] | None, name: str = "PATH_OR_NAME"
) -> str:
    """The card of a hub folder, as Markdown with the hub's YAML front matter.

    Args:
        config: the folder's ``config.json``. Of its ``training`` (all optional): ``data`` (name of the training
            data), ``text`` (how texts were normalised), ``hours_seen``, ``updates``, ``batch_s``, ``seed``,
            ``precision``, ``devices``, ``wall_s``, ``started_from``, ``language``, ``licence``, ``metrics``
            ({name: value}), ``test_data``.
        parameters: how many numbers the weights hold.
        head: the class of the model; None for an encoder.
        name: what to write in the example, a path or ``org/name``.
    """
    training: dict[str, Any] = config.get("training") or {}
    metrics: dict[str, float] = training.get("metrics") or {}
    architecture, encoder = config["architecture"], config["encoder"]
    what, pipeline, example, command = (head.title, head.pipeline, head.example, head.command) if head else _ENCODER
    form = _FORMS[encoder["kind"]].format_map(encoder)
    title = f"{what} ({form}, {parameters / 1e6:.1f} M parameters)"
    lines = ["---", *_front_matter(pipeline, _tags(encoder), training, metrics), "---", "", f"# {title}", ""]
    lines += [f"Written by mixvec {config['mixvec_version']}. Input: 16 kHz mono audio.", ""]
    use = _USE.format(architecture=architecture, name=json.dumps(name, ensure_ascii=False), example=example)
    if encoder["kind"] == "wav2vec2":
        lines += ["The encoder is fairseq2's: `pip install 'mixvec[fairseq2]'`.", ""]
        use = use.replace("from mixvec import SpeechEncoder", "from mixvec.hub import load_encoder")
        use = use.replace("SpeechEncoder.from_pretrained", "load_encoder")
    lines += ["```python", use, "```", ""]
    if command:
        lines += ["```bash", f"mixvec {command} --model {shlex.quote(name)} speech.wav", "```", ""]
    if metrics:
        lines += [f"## Results on {_show(training.get('test_data', 'held-out data'))}", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {_show(metric)} | {value:.4g} |" for metric, value in metrics.items()] + [""]
    rows = [(label, training[key]) for key, label in _BUDGET.items() if training.get(key) is not None]
    if rows:
        lines += ["## Training budget", "", "| | |", "|---|---|"]
        lines += [f"| {label} | {_show(value)} |" for label, value in rows] + [""]
    read = {key: encoder[key] for key in ("kind", "dim")} if encoder["kind"] == "log-mel" else encoder
    lines += ["## Encoder", "", "```json", json.dumps(read, indent=2), "```", ""]
    return "\n".join(lines)


_FORMS = {
    "mixvec": "{mixer} {block}",
    "wav2vec2": "wav2vec 2.0 with {mixer}",
    "log-mel": "log-mel features, {dim} bins",
    "transformers": "{model_type} of transformers",
}


def _tags(encoder: dict[str, Any]) -> list[str]:
    """What search engines of hubs go by; log-mel features are neither self-supervised nor mixed."""
    if encoder["kind"] == "log-mel":
        return ["speech"]
    return ["speech", "self-supervised", "summary-mixing" if "summary" in encoder.get("mixer", "") else "attention"]


_BUDGET = {
    "data": "training data",
    "text": "text, as it was learned and scored",
    "started_from": "started from",
    "updates": "updates",
    "batch_s": "batch, seconds of audio per update",
    "hours_seen": "hours of audio seen",
    "wall_s": "wall time, seconds",
    "devices": "devices",
    "precision": "precision",
    "seed": "seed",
}


def _front_matter(task: str | None, tags: list[str], training: dict[str, Any], metrics: dict[str, float]) -> list[str]:
    """The lines of the YAML. Text from outside is quoted: Norwegian is ``no``, which YAML takes for false."""
    lines = ["library_name: mixvec", f"pipeline_tag: {task}"]
    for key, source in (("license", "licence"), ("language", "language")):
        if training.get(source):
            lines.append(f"{key}: {_quoted(training[source])}")
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    scores = {metric: value for metric, value in metrics.items() if math.isfinite(value)}
    if scores:
        lines += ["model-index:", "- name: mixvec", "  results:", "  - task:", f"      type: {task}", "    dataset:"]
        lines += [f"      name: {_quoted(training.get('test_data', 'held-out data'))}", "      type: private"]
        lines.append("    metrics:")
        for metric, value in scores.items():
            lines += [f"    - type: {_quoted(metric)}", f"      value: {_number(value)}"]
    return lines


def _quoted(value: Any) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _number(value: float) -> str:
    """With a point before the exponent, without which YAML reads text."""
    digits, e, exponent = f"{value:.6g}".partition("e")
    return f"{digits}{'' if '.' in digits or not e else '.0'}{e}{exponent}"


def _show(value: Any) -> str:
    """For a cell of a table."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", "\\|")
