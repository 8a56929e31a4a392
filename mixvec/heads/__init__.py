"""Models with a head on an encoder, one kind a file."""

from .base import LayerChoice, Layers, TaskModel
from .classifier import Classifier
from .ctc import CtcRecognizer
from .decoder import HybridRecognizer
from .probe import ProbeClassifier, ProbeRecognizer
from .speaker import SpeakerEmbedder
from .trunks import Kind

_HEADS = (CtcRecognizer, HybridRecognizer, Classifier, ProbeRecognizer, ProbeClassifier, SpeakerEmbedder)
HEADS: dict[str, type[TaskModel]] = {head.__name__: head for head in _HEADS}
"""By the ``architecture`` of config.json."""

__all__ = [
    "HEADS",
    "Classifier",
    "CtcRecognizer",
    "HybridRecognizer",
    "Kind",
    "LayerChoice",
    "Layers",
    "ProbeClassifier",
    "ProbeRecognizer",
    "SpeakerEmbedder",
    "TaskModel",
]
