"""The heads by name. A head is added here, and in a file of its own."""

from __future__ import annotations

from .classifier import Classifier
from .ctc import CtcRecognizer
from .decoder import HybridRecognizer, HybridTagger
from .probe import ProbeClassifier
from .speaker import SpeakerEmbedder
from .tagger import SlotTagger
from .task_model import TaskModel

_RECOGNISE, _UNDERSTAND = (CtcRecognizer, HybridRecognizer), (Classifier, SlotTagger, HybridTagger, ProbeClassifier)
HEADS: dict[str, type[TaskModel]] = {head.__name__: head for head in (*_RECOGNISE, *_UNDERSTAND, SpeakerEmbedder)}
"""Heads by the ``architecture`` in config.json."""
