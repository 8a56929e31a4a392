"""Names that a published folder's ``config.json`` and its code agree on."""

from __future__ import annotations

FORMAT = 2
"""The form of a hub folder. In format 1, of mixvec 0.1.0, ``head_norm`` of heads is called ``norm``."""
ENCODER = "SpeechEncoder"
"""The ``architecture`` of an encoder without a head."""
AUTO_MAP = {
    "AutoConfig": "configuration_mixvec.MixvecConfig",
    "AutoModel": "modeling_mixvec.MixvecModel",
    "AutoModelForCTC": "modeling_mixvec.MixvecForCTC",
    "AutoModelForAudioClassification": "modeling_mixvec.MixvecForAudioClassification",
    "AutoModelForAudioXVector": "modeling_mixvec.MixvecForAudioXVector",
}
"""The class of a published folder's code that each Auto class of transformers loads."""
