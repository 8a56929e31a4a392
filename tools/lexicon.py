"""Beam search over the output of CTC, alone or over the words of an n-gram: flashlight-text, through torchaudio."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from finetune.tokenizer import Tokenizer
from mixvec import UserError
from mixvec.text import SPACE, TextStyle, normalise_text
from mixvec.transcript import ctc_decoder, ctc_search

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


def prefix_beam(log_probs: Sequence[Tensor], beam: int) -> list[list[int]]:
    """The most probable token sequence for each utterance's log-probabilities (T, V), summed over its alignments.

    Raises:
        UserError: flashlight-text is not installed.
    """
    search = ctc_search(log_probs[0].shape[1], beam)
    best = [search(own.float().unsqueeze(0))[0][0].tokens.tolist() if len(own) else [] for own in log_probs]
    return [[token for token in tokens if token != 0] for tokens in best]


class NgramBeam:
    """Beam search over the words of a lexicon, scored by CTC, an n-gram and a bonus per word."""

    def __init__(self, arpa: Path, lexicon: dict[str, list[int]], vocabulary: Sequence[str]) -> None:
        """
        Raises:
            UserError: KenLM cannot read the file, or flashlight-text is not installed.
        """
        self._make = ctc_decoder()
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import create_word_dict, load_words

        self._size, self._space = len(vocabulary), vocabulary.index(SPACE) if SPACE in vocabulary else None
        self._folder = tempfile.TemporaryDirectory(prefix="mixvec-lexicon-")
        self._lexicon = str(Path(self._folder.name) / "lexicon.txt")
        # Token numbers, not the tokens, so that none can be mistaken for the file format's own characters.
        ends = [] if self._space is None else [self._space]
        self._spelled = {word: [*tokens, *ends] for word, tokens in lexicon.items()}
        lines = [" ".join([word, *map(str, tokens)]) for word, tokens in self._spelled.items()]
        Path(self._lexicon).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        try:
            self._lm = KenLM(str(arpa), create_word_dict(load_words(self._lexicon)))
        except RuntimeError as error:
            raise UserError(f"{arpa}: KenLM cannot read it ({' '.join(str(error).split())})") from error

    def decode(self, log_probs: Sequence[Tensor], weight: float, bonus: float, beam: int) -> list[list[int]]:
        """The best token sequence for each utterance's log-probabilities (T, V).

        Args:
            weight: weight of the n-gram's log10 probability.
            bonus: score added for each word; negative for fewer words.
            beam: number of hypotheses kept.
        """
        decoder = self._make(
            lexicon=self._lexicon, tokens=list(map(str, range(self._size))), lm=self._lm, lm_weight=weight,
            word_score=bonus, beam_size=beam, beam_size_token=min(100, self._size), blank_token="0",
            sil_token=str(self._space or 0),
        )  # fmt: skip
        found = []
        for own in log_probs:
            best = decoder(self._ended(own).unsqueeze(0))[0] if len(own) else []
            # Its words, not its tokens, which may end a word on a doubled piece without the blank that CTC needs.
            found.append([token for word in (best[0].words if best else []) for token in self._spelled[word]])
        return found

    def _ended(self, log_probs: Tensor) -> Tensor:
        """The log-probabilities with a final frame of a space: lexicon words end in one, and training texts do not."""
        if self._space is None:
            return log_probs.float()
        last = torch.full((1, self._size), OTHER_TOKENS)
        last[0, self._space] = 0.0
        return torch.cat([log_probs.float(), last])
