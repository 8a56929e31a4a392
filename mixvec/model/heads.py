"""The heads by name. A head is added here, and in a file of its own."""

from __future__ import annotations

from .classifier import Classifier, ProbeClassifier
from .ctc import CtcRecognizer, SlotTagger
from .decoder import HybridRecognizer, HybridTagger
from .speaker import SpeakerEmbedder
from .task_model import TaskModel

_RECOGNISE, _UNDERSTAND = (CtcRecognizer, HybridRecognizer), (Classifier, SlotTagger, HybridTagger, ProbeClassifier)
HEADS: dict[str, type[TaskModel]] = {head.__name__: head for head in (*_RECOGNISE, *_UNDERSTAND, SpeakerEmbedder)}
"""Heads by the ``architecture`` in config.json."""
