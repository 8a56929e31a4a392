"""mixvec: speech encoders with SummaryMixing, linear in time, and the heads that recognise and understand."""

from .errors import UserError
from .model import (
    Classifier,
    CtcRecognizer,
    HybridRecognizer,
    HybridTagger,
    ProbeClassifier,
    SlotTagger,
    SpeakerEmbedder,
)
from .model.config import SIZES, EncoderConfig, encoder_config
from .model.encoder import SpeechEncoder, build_encoder
from .model.mixing import SelfAttention, SummaryMixing
from .model.output import EncoderOutput

__version__ = "0.1.0"

__all__ = [
    "SIZES",
    "Classifier",
    "CtcRecognizer",
    "EncoderConfig",
    "EncoderOutput",
    "HybridRecognizer",
    "HybridTagger",
    "ProbeClassifier",
    "SelfAttention",
    "SlotTagger",
    "SpeakerEmbedder",
    "SpeechEncoder",
    "SummaryMixing",
    "UserError",
    "build_encoder",
    "encoder_config",
]
