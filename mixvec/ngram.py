"""Beam search for the words of an n-gram in the output of CTC: flashlight-text, through torchaudio."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from .errors import UserError
from .text import SPACE, TextStyle, Tokenizer, load_tokenizer, normalise_text
from .transcript import ctc_decoder

MARKS = ("<s>", "</s>", "<unk>")
OTHER_TOKENS = -1e4
"""Log-probability of all other tokens in the frame that ends the last word."""


def tokenize_words(
    words: Iterable[str], tokenizer: Tokenizer, style: TextStyle, name: str
) -> tuple[dict[str, list[int]], list[str]]:
    """The tokens of an n-gram's words after normalisation, and lines to print about skipped words.

    Raises:
        UserError: no word can be tokenized: another alphabet, or another case than ``text.normalise=none`` keeps.
    """
    lexicon: dict[str, list[int]] = {}
    lost, letters = [], Counter[str]()
    for word in words:
        text = normalise_text(word, style)
        unknown = tokenizer.unknown([text])
        if tokens := [] if unknown else tokenizer.encode(text):
            lexicon[word] = tokens
        else:
            lost.append(word)
            letters.update(unknown)
    if not lost:
        return lexicon, []
    why = f"such as {lost[0]!r}: the vocabulary lacks {', '.join(repr(c) for c, _ in letters.most_common(5))}"
    if not lexicon:
        raise UserError(f"{name}: none of its {len(lost)} words can be tokenized, {why}; is it of another language, "
                        f"alphabet or case? text.normalise={style}")  # fmt: skip
    return lexicon, [f"WARNING {name}: skipped {len(lost)} of {len(lost) + len(lexicon)} words, {why}"]


def words_of(path: Path) -> list[str]:
    """The words of an ARPA file, in its order, except <s>, </s> and <unk>.

    Raises:
        UserError: it is not an ARPA file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            next((line for line in file if line.strip() == "\\1-grams:"), None)
            rows = [line.rstrip("\n").split("\t") for line in takewhile(lambda line: line[0] != "\\", file)]
            words = [row[1] for row in rows if row != [""]]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise UserError(f"{path}: not readable as an ARPA file ({error})") from error
    if not (found := [word for word in words if word.lower() not in MARKS]):
        raise UserError(f"{path}: no words of an n-gram in it; it must be an ARPA file, neither compressed nor binary")
    return found


class NgramBeam:
    """Beam search over the words of a lexicon, scored by CTC, an n-gram and a bonus per word."""

    def __init__(self, arpa: Path, lexicon: dict[str, list[int]], vocabulary: Sequence[str]) -> None:
        """
        Raises:
            UserError: KenLM cannot read the file, or flashlight-text is not installed.
        """
        make = ctc_decoder()
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import create_word_dict, load_words

        self._size, self._space = len(vocabulary), vocabulary.index(SPACE) if SPACE in vocabulary else None
        self._folder = tempfile.TemporaryDirectory(prefix="mixvec-lexicon-")
        path = str(Path(self._folder.name) / "lexicon.txt")
        # Token numbers, not the tokens, so that none can be mistaken for the file format's own characters.
        ends = [] if self._space is None else [self._space]
        self._spelled = {word: [*tokens, *ends] for word, tokens in lexicon.items()}
        lines = [" ".join([word, *map(str, tokens)]) for word, tokens in self._spelled.items()]
        Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        kept = os.dup(2)
        with open(os.devnull, "wb") as nowhere:  # KenLM draws a bar on stderr, in C++
            os.dup2(nowhere.fileno(), 2)
        try:
            lm = KenLM(str(arpa), create_word_dict(load_words(path)))
        except RuntimeError as error:
            reason = " ".join(str(error).split()).split("Exception. ")[-1]
            raise UserError(f"{arpa}: KenLM cannot read it ({reason})") from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        self._make = lru_cache(1)(partial(
            make, lexicon=path, tokens=list(map(str, range(self._size))), lm=lm, blank_token="0",
            beam_size_token=min(100, self._size), sil_token=str(self._space or 0),
        ))  # fmt: skip

    def decode(self, log_probs: Sequence[Tensor], weight: float, bonus: float, beam: int) -> list[list[int]]:
        """The best token sequence for each utterance's log-probabilities (T, V).

        Args:
            weight: weight of the n-gram's log10 probability.
            bonus: score added for each word; negative for fewer words.
            beam: number of hypotheses kept.
        """
        search, found = self._make(lm_weight=weight, word_score=bonus, beam_size=beam), []
        for own in log_probs:
            best = search(self._ended(own).unsqueeze(0))[0] if len(own) else []
            # Its words, not its tokens, which may end a word on a doubled piece without the blank that CTC needs.
            tokens = [token for word in (best[0].words if best else []) for token in self._spelled[word]]
            found.append(tokens if self._space is None else tokens[:-1])
        return found

    def _ended(self, log_probs: Tensor) -> Tensor:
        """The log-probabilities with a final frame of a space: lexicon words end in one, and training texts do not."""
        if self._space is None:
            return log_probs.float()
        last = torch.full((1, self._size), OTHER_TOKENS)
        last[0, self._space] = 0.0
        return torch.cat([log_probs.float(), last])


def load_ngram(arpa: Path, folder: Path, vocabulary: list[str], style: TextStyle) -> tuple[NgramBeam, list[str]]:
    """The search that ``--lm`` asks for, and lines to print about words that it cannot find.

    Args:
        folder: where ``tokenizer.model`` is, if the vocabulary is one of pieces.
        style: how the texts were normalised that the model has learned.

    Raises:
        UserError: the n-gram or the tokenizer cannot be used, or flashlight-text is not installed.
    """
    if not arpa.is_file():
        raise UserError(f"--lm {arpa}: no such file; give an ARPA file")
    tokenizer = Tokenizer(vocabulary) if SPACE in vocabulary else load_tokenizer(folder, vocabulary)
    lexicon, notes = tokenize_words(words_of(arpa), tokenizer, style, str(arpa))
    return NgramBeam(arpa, lexicon, vocabulary), notes
