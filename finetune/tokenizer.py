"""Tokenizers for recognition: characters, or the pieces of a sentencepiece model.

A run with pieces keeps ``tokenizer.model`` in its directory. Token 0 is CTC's blank, which is also
sentencepiece's number for what it does not know. A published model decodes without sentencepiece: its tokens joined,
with ▁ read as a space, are the text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mixvec import UserError
from mixvec.atomic import whole_file
from mixvec.text import SPACE, TOKENIZER_MODEL, Tokenizer, build_vocabulary, load_tokenizer

TokenizerKind = Literal["characters", "bpe", "unigram"]


def build_tokenizer(kind: TokenizerKind, size: int, texts: Iterable[str], folder: Path) -> Tokenizer:
    """The tokenizer of the run in ``folder``: trained on its texts when it starts, the saved one when it resumes.

    Raises UserError where the texts are too few for ``size`` pieces, or the saved tokenizer does not fit.
    """
    if kind == "characters":
        return Tokenizer(build_vocabulary(texts))
    if not any(folder.glob("checkpoints/update_*")):
        model = train_tokenizer(kind, size, texts)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / TOKENIZER_MODEL) as new:  # all ranks write the same
            new.write_bytes(model)
    return load_tokenizer(folder)


def train_tokenizer(kind: TokenizerKind, size: int, texts: Iterable[str]) -> bytes:
    """A sentencepiece model of the texts with ``size`` tokens; the same bytes for the same texts.

    Raises UserError where ``size`` is smaller than the alphabet, or larger than the texts can fill.
    """
    import sentencepiece

    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.replace(SPACE, " ") for text in texts]), model_writer=written,
            model_type=kind, vocab_size=size, character_coverage=1.0,
            normalization_rule_name="identity", unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, num_threads=1,
            max_sentence_length=1 << 20, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        found = re.search(r"(vs|<=) (\d+)", str(error))
        bound = f"at {'least' if found[1] == 'vs' else 'most'} {found[2]}" if found else str(error)
        raise UserError(f"asr.vocabulary_size={size} with asr.units={kind}: for this training text {bound}") from error
    return written.getvalue()
