"""Models with a head on an encoder, one kind a file."""

from .base import LayerChoice, Layers, TaskModel
from .classifier import Classifier
from .ctc import CtcRecognizer
from .probe import ProbeClassifier, ProbeRecognizer
from .speaker import SpeakerEmbedder
from .trunks import Kind

HEADS: dict[str, type[TaskModel]] = {
    head.__name__: head for head in (CtcRecognizer, Classifier, ProbeRecognizer, ProbeClassifier, SpeakerEmbedder)
}
"""By the ``architecture`` of config.json."""

__all__ = [
    "HEADS",
    "Classifier",
    "CtcRecognizer",
    "Kind",
    "LayerChoice",
    "Layers",
    "ProbeClassifier",
    "ProbeRecognizer",
    "SpeakerEmbedder",
    "TaskModel",
]
