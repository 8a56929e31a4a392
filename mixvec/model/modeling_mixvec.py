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
from .frontend import ConvLayer
from .heads import HEADS
from .mixing import BlockLinear
from .padding import padding_mask
from .pretrained import ENCODER
from .protocol import EncoderOutput
from .speaker import SpeakerEmbedder
from .task_model import LayerChoice, TaskModel

if TYPE_CHECKING:  # transformers 4 copies from a local folder the files that are named in this one, and no others
    from .classifier import Classifier  # noqa: F401
    from .config import EncoderConfig  # noqa: F401
    from .context import Context  # noqa: F401
    from .ctc import CtcModel  # noqa: F401
    from .decoder import HybridModel  # noqa: F401
    from .mel import MelTables  # noqa: F401
    from .noise import Dropout  # noqa: F401
    from .tiling import in_tiles  # noqa: F401
    from .trunks import build_trunk  # noqa: F401
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
        """Draw the weights of a module that a checkpoint has none for, not of those in it, as its constructor does."""
        if isinstance(module, MixvecModel):
            nn.init.uniform_(module.mask_embedding)
        elif isinstance(module, MixvecForAudioXVector):
            nn.init.normal_(module.directions)
        elif isinstance(module, ConvLayer):
            nn.init.kaiming_normal_(module.conv.weight)
        elif isinstance(module, BlockLinear):
            bound = module.weight.shape[1] ** -0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, LayerChoice) and module.weights is not None:
            nn.init.zeros_(module.weights)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()

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

    def get_input_embeddings(self) -> None:
        """None: there are no embeddings of words, for which PEFT asks where it saves an adapter."""

    def enable_input_require_grads(self) -> None:
        """Do nothing: PEFT calls it under gradient checkpointing, and the blocks' needs no input with a gradient."""

    disable_input_require_grads = enable_input_require_grads

    def adopt(self, core: nn.Module) -> None:
        """Take the children, parameters and plain attributes of ``core`` that this model does not have."""
        for name, value in vars(core).items():
            own = self.__dict__.setdefault(name, value)
            if isinstance(value, dict):  # torch's own: _modules, ...
                own |= value | own


class _Bare(SpeechEncoder):
    """The methods of an encoder on a module that is still empty."""

    config: Any

    def __init__(self, _: Any = None) -> None:
        nn.Module.__init__(self)


class MixvecModel(MixvecPreTrainedModel, _Bare):
    """The encoder: waveforms to frames, ``last_hidden_state`` (B, T, D), zero after an utterance's own."""

    gradient_checkpointing = False
    post_init: Any  # torch's own __getattr__ hides its type

    def __init__(self, config: MixvecConfig) -> None:
        config = deepcopy(config)  # saved by itself, the encoder of a recogniser is an encoder
        config.architecture, config.head = ENCODER, None
        super().__init__(config)
        self.adopt(SpeechEncoder(config.shape()))
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> Any:
        """Encode a batch.

        Args:
            input_values: (B, S) waveforms at 16 kHz, as they are: the model normalises them.
            attention_mask: (B, S), 1 at an utterance's own samples, 0 at those after them.
            output_hidden_states: also return the input embedding and every layer's output, L + 1 tensors (B, T, D).

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
        """
        Raises:
            ValueError: the configuration names a head of another kind, whose weights would be misread.
        """
        super().__init__(config := deepcopy(config))
        kinds = {kind.__name__: kind for kind in self.kinds}
        if config.architecture not in (ENCODER, *kinds):
            raise ValueError(
                f"config.json: a {config.architecture}, which {type(self).__name__} cannot load; for a new head on its "
                "encoder, save AutoModel.from_pretrained(…) to a folder and start from that"
            )
        self.kind_of_head = kinds.get(config.architecture, self.kinds[0])
        self.encoder = MixvecModel(config)
        head = self.kind_of_head.restored(self.encoder, self.stored(), config.head or {})
        config.architecture, config.head = self.kind_of_head.__name__, head.settings()
        self.adopt(head)
        self.post_init()

    def stored(self) -> Any:
        """What the head's own file would hold; transformers keeps it in the configuration."""
        return [self.config.id2label[number] for number in range(len(self.config.id2label))]

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """Compute the head's output for a batch, and with ``labels`` a ``loss``; the class states both.

        The other arguments are those of ``MixvecModel``.
        """
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded = self.encoder.encoded(input_values, attention_mask, bool(wanted) or self.every_layer)
        found = self.kind_of_head.head(self, encoded)
        return self.output_of(found, encoded.lengths, labels, tuple(encoded.layers) if wanted else None)

    def output_of(self, found: Tensor, frame_lengths: Tensor, labels: Tensor | None, layers: Any) -> Any:
        """The output of transformers' form from the head's."""
        raise NotImplementedError

    def freeze_feature_encoder(self) -> None:
        """Keep the front end as it is in training."""
        self.encoder.front_end.requires_grad_(False)


class MixvecForCTC(_WithHead):
    """Speech to text, or to tagged text: ``logits`` (B, T, V) are log-probabilities in fp32, a certain blank after an
    utterance's own frames. With ``labels``, tokens (B, U), -100 after a text's own, ``loss`` is the mean over the batch
    of each text's CTC loss per token."""

    kinds = tuple(head for head in HEADS.values() if head.auto == "AutoModelForCTC")

    def stored(self) -> dict[str, int]:
        """A vocabulary of the right size, whose tokens only the tokenizer knows."""
        if not self.config.vocab_size:
            raise ValueError("vocab_size: a new head needs the size of the tokenizer's vocabulary, "
                             "from_pretrained(…, vocab_size=len(tokenizer))")  # fmt: skip
        return {str(number): number for number in range(self.config.vocab_size)}

    def output_of(self, found: Tensor, frame_lengths: Tensor, labels: Tensor | None, layers: Any) -> Any:
        loss = None
        if labels is not None:
            real = labels >= 0
            loss = F.ctc_loss(found.transpose(0, 1), labels[real], frame_lengths, real.sum(-1),
                              blank=0, zero_infinity=True)  # fmt: skip
        blank = found.new_tensor([0.0] + [-1e4] * (found.shape[-1] - 1))
        own = padding_mask(frame_lengths, found.shape[1]).unsqueeze(-1)
        return CausalLMOutput(loss, torch.where(own, found, blank), layers)


class MixvecForAudioClassification(_WithHead):
    """A label for each utterance: ``logits`` (B, N) in fp32; with ``labels`` (B,) ``loss`` is their cross-entropy."""

    kinds = tuple(head for head in HEADS.values() if head.auto == "AutoModelForAudioClassification")

    def output_of(self, found: Tensor, frame_lengths: Tensor, labels: Tensor | None, layers: Any) -> Any:
        return SequenceClassifierOutput(None if labels is None else F.cross_entropy(found, labels), found, layers)


class MixvecForAudioXVector(_WithHead):
    """A speaker embedding for each utterance, ``embeddings`` (B, E) of length 1; ``logits`` (B, N) are their scaled
    cosines with the training data's speakers, of which ``labels`` (B,) give a cross-entropy ``loss``."""

    kinds = (SpeakerEmbedder,)

    def output_of(self, found: Tensor, frame_lengths: Tensor, labels: Tensor | None, layers: Any) -> Any:
        logits = COSINE_SCALE * SpeakerEmbedder.cosines(self, found)
        return XVectorOutput(None if labels is None else F.cross_entropy(logits, labels), logits, found, layers)


for _auto, _class in (
    ("AutoModel", MixvecModel), ("AutoModelForCTC", MixvecForCTC),
    ("AutoModelForAudioClassification", MixvecForAudioClassification),
    ("AutoModelForAudioXVector", MixvecForAudioXVector),
):  # fmt: skip
    _class.register_for_auto_class(_auto)  # so that save_pretrained copies this code
