"""Models with a head on an encoder, one kind a file."""

from .classifier import Classifier
from .ctc import CtcRecognizer
from .decoder import HybridRecognizer, HybridTagger
from .probe import ProbeClassifier
from .speaker import SpeakerEmbedder
from .tagger import SlotTagger
from .task_model import LayerChoice, Layers, TaskModel
from .trunks import Kind

_RECOGNISE, _UNDERSTAND = (CtcRecognizer, HybridRecognizer), (Classifier, SlotTagger, HybridTagger, ProbeClassifier)
HEADS: dict[str, type[TaskModel]] = {head.__name__: head for head in (*_RECOGNISE, *_UNDERSTAND, SpeakerEmbedder)}
"""By the ``architecture`` of config.json."""

__all__ = [
    "HEADS",
    "Classifier",
    "CtcRecognizer",
    "HybridRecognizer",
    "HybridTagger",
    "Kind",
    "LayerChoice",
    "Layers",
    "ProbeClassifier",
    "SlotTagger",
    "SpeakerEmbedder",
    "TaskModel",
]
