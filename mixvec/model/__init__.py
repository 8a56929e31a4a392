"""The network and nothing else: encoders, and heads on them, one kind in a file. Only torch and numpy are needed."""

from .classifier import Classifier
from .ctc import CtcRecognizer
from .decoder import HybridRecognizer, HybridTagger
from .heads import HEADS
from .probe import ProbeClassifier
from .speaker import SpeakerEmbedder
from .tagger import SlotTagger
from .task_model import LayerChoice, Layers, TaskModel
from .trunks import Kind

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
