"""Models with a head on an encoder, one kind a file."""

from .base import LayerChoice, Layers, TaskModel
from .classifier import Classifier
from .ctc import CtcRecognizer
from .tagger import SlotTagger

HEADS: dict[str, type[TaskModel]] = {head.__name__: head for head in (CtcRecognizer, Classifier, SlotTagger)}
"""By the ``architecture`` of config.json."""

__all__ = ["HEADS", "Classifier", "CtcRecognizer", "LayerChoice", "Layers", "SlotTagger", "TaskModel"]
