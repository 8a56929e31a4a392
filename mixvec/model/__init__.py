"""The network and nothing else: encoders, and heads on them. Only torch and numpy are needed."""

from .classifier import Classifier, ProbeClassifier
from .ctc import CtcRecognizer, SlotTagger
from .decoder import HybridRecognizer, HybridTagger
from .heads import HEADS
from .speaker import SpeakerEmbedder
from .task_model import LayerChoice, Layers, TaskModel
from .trunks import Kind

__all__ = ["HEADS", "Classifier", "CtcRecognizer", "HybridRecognizer", "HybridTagger", "Kind", "LayerChoice", "Layers",
           "ProbeClassifier", "SlotTagger", "SpeakerEmbedder", "TaskModel"]  # fmt: skip
