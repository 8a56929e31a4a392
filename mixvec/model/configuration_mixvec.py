"""The configuration of a published model in transformers: every key of ``config.json``, mixvec's and transformers'."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from transformers import PretrainedConfig

from .config import EncoderConfig
from .pretrained import AUTO_MAP, ENCODER, FORMAT


class MixvecConfig(PretrainedConfig):
    """The configuration of an encoder, or of an encoder with a head."""

    model_type = "mixvec"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        architecture: str = ENCODER,
        vocab_size: int | None = None,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            encoder: keys of ``EncoderConfig`` that differ from its defaults.
            head: arguments of the head, such as ``layers`` and ``dropout``.
            architecture: the name of the head, one of ``HEADS``; of a model without one, ``ENCODER``.
            vocab_size: size of the vocabulary of a head with CTC.
            pad_token_id: CTC's blank, always 0.

        Raises:
            ValueError: an impossible value in ``encoder``, or a folder in a format that this code cannot read.
        """
        self.encoder, self.head, self.architecture = dict(encoder or {}), head, architecture
        self.format = kwargs.pop("format", FORMAT)
        if not isinstance(self.format, int) or self.format > FORMAT:
            raise ValueError(f"config.json: format {self.format!r}; this code reads up to {FORMAT}: upgrade mixvec")
        if self.format < FORMAT and architecture != ENCODER:
            raise ValueError(f"config.json: format {self.format} of a {architecture}, which transformers misreads; "
                             "write the model again with `python -m tools.publish`")  # fmt: skip
        self.format = FORMAT
        self.shape()
        self.vocab_size = vocab_size
        self.auto_map = AUTO_MAP | (kwargs.pop("auto_map", None) or {})
        kwargs.pop("sha256", None)  # of files that saving writes again
        super().__init__(pad_token_id=pad_token_id, **kwargs)

    def shape(self) -> EncoderConfig:
        """The configuration of the encoder.

        Raises:
            ValueError: an unknown key or an impossible value.
        """
        unknown = self.encoder.keys() - {field.name for field in fields(EncoderConfig)}
        if unknown:
            raise ValueError(f"config.json: unknown encoder key {', '.join(sorted(unknown))}: upgrade mixvec")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.encoder.items()}
        return EncoderConfig(**values)

    def __getattr__(self, name: str) -> Any:
        """A key of the encoder, as the encoder's own code asks for it, or by transformers' name."""
        name = {"hidden_size": "dim", "num_hidden_layers": "num_layers"}.get(name, name)
        if name in EncoderConfig.__dataclass_fields__ and "encoder" in self.__dict__:
            return getattr(self.shape(), name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples per frame, by which pipelines place words in time."""
        shape = self.shape()
        return 160 * math.prod(shape.conv_strides) if shape.front_end == "mel" else 320


MixvecConfig.register_for_auto_class()
