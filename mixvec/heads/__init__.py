"""Models with a head on an encoder, one kind a file."""

from .base import LayerChoice, Layers, TaskModel
from .classifier import Classifier
from .ctc import CtcRecognizer
from .decoder import HybridRecognizer
from .tagger import SlotTagger

_ALL: tuple[type[TaskModel], ...] = (CtcRecognizer, HybridRecognizer, Classifier, SlotTagger)
HEADS: dict[str, type[TaskModel]] = {head.__name__: head for head in _ALL}
"""By the ``architecture`` of config.json."""

__all__ = [
    "HEADS",
    "Classifier",
    "CtcRecognizer",
    "HybridRecognizer",
    "LayerChoice",
    "Layers",
    "SlotTagger",
    "TaskModel",
]
