"""Published models in transformers: AutoModel, AutoModelForCTC, -AudioClassification and -AudioXVector.

The network is that of the other files of this folder, and its tensors have the same names, so that one
``model.safetensors`` serves mixvec and transformers. This file is copied with them into every published folder.

Symbols: B batch, S samples, T frames, D model width, V vocabulary size, N labels, E width of an embedding.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, SequenceClassifierOutput, XVectorOutput
from transformers.utils import can_return_tuple

from .blocks import BranchformerBlock, ConformerBlock
from .configuration_mixvec import MixvecConfig
from .encoder import SpeechEncoder
from .heads import HEADS
from .initialisation import adopt, initialise
from .output import EncoderOutput
from .padding import padding_mask
from .published import ENCODER
from .speaker import SpeakerEmbedder
from .task_model import TaskModel

if TYPE_CHECKING:  # transformers 4 copies from a local folder the files that are named in this one, and no others
    from .beam import BLANK  # noqa: F401
    from .classifier import Classifier  # noqa: F401
    from .config import EncoderConfig  # noqa: F401
    from .context import Context  # noqa: F401
    from .ctc import CtcModel  # noqa: F401
    from .decoder import HybridModel  # noqa: F401
    from .frontend import ConvLayer  # noqa: F401
    from .mel import MelTables  # noqa: F401
    from .mixing import BlockLinear  # noqa: F401
    from .noise import Dropout  # noqa: F401
    from .pooling import MeanPooling  # noqa: F401
    from .pretrained import Pretrained  # noqa: F401
    from .probe import ProbeClassifier  # noqa: F401
    from .protocol import Encoder  # noqa: F401
    from .tagger import SlotTagger  # noqa: F401
    from .tags import read_tags  # noqa: F401
    from .tdnn import Tdnn  # noqa: F401
    from .tiling import in_tiles  # noqa: F401
    from .trunks import TrunkChoice  # noqa: F401
    from .vocabulary import vocabulary_of  # noqa: F401
    from .waveforms import Sound  # noqa: F401

COSINE_SCALE = 30.0
"""By which cosines with speakers are multiplied before the softmax of their loss."""


class MixvecPreTrainedModel(PreTrainedModel):
    """How transformers initialises, saves and checkpoints the models."""

    config_class = MixvecConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["ConformerBlock", "BranchformerBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module that a checkpoint has no weights for, as its constructor does."""
        if isinstance(module, MixvecModel):
            nn.init.uniform_(module.mask_embedding)
        elif isinstance(module, MixvecForAudioXVector):
            nn.init.normal_(module.directions)
        else:
            initialise(module)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, every_n_layers: int = 1
    ) -> None:
        """Recompute each block in the backward pass; the blocks do so themselves."""
        blocks = [block for block in self.modules() if isinstance(block, ConformerBlock | BranchformerBlock)]
        for number, block in enumerate(blocks):
            block.checkpointing = enable and number % every_n_layers == 0
        for model in self.modules():
            if isinstance(model, MixvecModel):
                model.gradient_checkpointing = enable


class _Bare(SpeechEncoder):
    """The methods of an encoder on a module that is still empty."""

    config: Any

    def __init__(self, _: Any = None) -> None:
        nn.Module.__init__(self)


class MixvecModel(MixvecPreTrainedModel, _Bare):
    """The encoder: waveforms to frames."""

    gradient_checkpointing = False
    post_init: Any  # torch's own __getattr__ hides its type

    def __init__(self, config: MixvecConfig) -> None:
        config = deepcopy(config)  # saved by itself, the encoder of a recogniser is an encoder
        config.architecture, config.head = ENCODER, None
        super().__init__(config)
        adopt(self, SpeechEncoder(config.shape()))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """Encode a batch.

        Args:
            input_values: (B, S) waveforms at 16 kHz, as they are: the model normalises them.
            attention_mask: (B, S), 1 at an utterance's own samples, 0 at those behind them.
            output_hidden_states: also return the input embedding and every layer's output, L + 1 tensors (B, T, D).

        Returns:
            ``last_hidden_state`` (B, T, D), zero behind an utterance's own frames.

        Raises:
            ValueError: the padding is not on the right.
        """
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded = self.encoded(input_values, attention_mask, bool(wanted))
        return BaseModelOutput(encoded.frames, tuple(encoded.layers) if wanted else None)

    def encoded(self, input_values: Tensor, attention_mask: Tensor | None, every_layer: bool) -> EncoderOutput:
        """The encoder's output for a batch in transformers' form; audio shorter than a frame is padded with silence."""
        lengths = None
        if attention_mask is not None:
            real = attention_mask.bool()
            if not torch.compiler.is_compiling() and bool((real[:, 1:] & ~real[:, :-1]).any()):
                raise ValueError("attention_mask: the padding must be on the right (padding_side='right')")
            lengths = real.sum(-1).clamp(min=self.min_samples)
        input_values = F.pad(input_values, (0, max(0, self.min_samples - input_values.shape[1])))
        return self.encode(*self.features(input_values, lengths), every_layer=every_layer)


class _WithHead(MixvecPreTrainedModel):
    """An encoder with the head that the configuration names, or on an encoder's configuration with a new one."""

    kinds: ClassVar[tuple[type[TaskModel], ...]]
    """The heads that the class loads; a new one is of the first kind."""

    def __init__(self, config: MixvecConfig) -> None:
        super().__init__(config := deepcopy(config))
        self.kind_of_head = _kind(config.architecture, self.kinds, type(self).__name__)
        self.encoder = MixvecModel(config)
        head = self.kind_of_head.restored(self.encoder, self.stored(), config.head or {})
        config.architecture, config.head = self.kind_of_head.__name__, head.settings()
        adopt(self, head)
        self.post_init()

    def stored(self) -> Any:
        """What the head's own file would hold; transformers keeps it in the configuration."""
        return [self.config.id2label[number] for number in range(len(self.config.id2label))]

    def answer(
        self, input_values: Tensor, attention_mask: Tensor | None, hidden_states: bool | None
    ) -> tuple[Tensor, EncoderOutput, tuple[Tensor, ...] | None]:
        """The head's output, the encoder's, and its layers where they are wanted."""
        wanted = self.config.output_hidden_states if hidden_states is None else hidden_states
        encoded = self.encoder.encoded(input_values, attention_mask, bool(wanted) or self.every_layer)
        return self.kind_of_head.head(self, encoded), encoded, tuple(encoded.layers) if wanted else None

    def freeze_feature_encoder(self) -> None:
        """Keep the front end as it is in training."""
        self.encoder.front_end.requires_grad_(False)


class MixvecForCTC(_WithHead):
    """Speech to text, or to tagged text, with CTC."""

    kinds = tuple(head for head in HEADS.values() if head.auto == "AutoModelForCTC")

    def stored(self) -> dict[str, int]:
        """A vocabulary of the right size, whose tokens only the tokenizer knows."""
        if not self.config.vocab_size:
            raise ValueError("vocab_size: a new head needs the size of the tokenizer's vocabulary, "
                             "from_pretrained(…, vocab_size=len(tokenizer))")  # fmt: skip
        return {str(number): number for number in range(self.config.vocab_size)}

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """Recognise a batch; the arguments are those of ``MixvecModel``.

        Args:
            labels: (B, U) tokens, -100 behind a text's own.

        Returns:
            ``logits`` (B, T, V), log-probabilities in fp32, a certain blank behind an utterance's own frames; with
            ``labels`` also ``loss``, the mean over the batch of each text's CTC loss per token.
        """
        log_probs, encoded, layers = self.answer(input_values, attention_mask, output_hidden_states)
        loss = None
        if labels is not None:
            real = labels >= 0
            loss = F.ctc_loss(log_probs.transpose(0, 1), labels[real], encoded.lengths, real.sum(-1),
                              blank=0, zero_infinity=True)  # fmt: skip
        blank = log_probs.new_tensor([0.0] + [-1e4] * (log_probs.shape[-1] - 1))
        own = padding_mask(encoded.lengths, log_probs.shape[1])
        return CausalLMOutput(loss, torch.where(own.unsqueeze(-1), log_probs, blank), layers)


class MixvecForAudioClassification(_WithHead):
    """A label for each utterance."""

    kinds = tuple(head for head in HEADS.values() if head.auto == "AutoModelForAudioClassification")

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """Classify a batch; the arguments are those of ``MixvecModel``, ``labels`` (B,) gives a cross-entropy ``loss``.

        Returns ``logits`` (B, N) in fp32.
        """
        logits, _, layers = self.answer(input_values, attention_mask, output_hidden_states)
        return SequenceClassifierOutput(None if labels is None else F.cross_entropy(logits, labels), logits, layers)


class MixvecForAudioXVector(_WithHead):
    """A speaker embedding for each utterance."""

    kinds = (SpeakerEmbedder,)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """Embed a batch; the arguments are those of ``MixvecModel``, ``labels`` (B,) are speakers of the training data.

        Returns:
            ``embeddings`` (B, E) of length 1 and ``logits`` (B, N), their scaled cosines with the training data's
            speakers; with ``labels`` also a cross-entropy ``loss``.
        """
        embeddings, _, layers = self.answer(input_values, attention_mask, output_hidden_states)
        logits = COSINE_SCALE * SpeakerEmbedder.cosines(self, embeddings)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return XVectorOutput(loss, logits, embeddings, layers)


def _kind(architecture: str, kinds: tuple[type[TaskModel], ...], name: str) -> type[TaskModel]:
    """The class of the head.

    Raises:
        ValueError: the configuration names a head of another kind, whose weights would be misread.
    """
    for kind in kinds:
        if kind.__name__ == architecture:
            return kind
    if architecture != ENCODER:
        raise ValueError(f"config.json: a {architecture}, which {name} cannot load; for a new head on its encoder, "
                         "save AutoModel.from_pretrained(…) to a folder and start from that")  # fmt: skip
    return kinds[0]


for _auto, _class in (
    ("AutoModel", MixvecModel), ("AutoModelForCTC", MixvecForCTC),
    ("AutoModelForAudioClassification", MixvecForAudioClassification),
    ("AutoModelForAudioXVector", MixvecForAudioXVector),
):  # fmt: skip
    _class.register_for_auto_class(_auto)  # so that save_pretrained copies this code
