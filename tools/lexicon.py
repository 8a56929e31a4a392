"""Beam search over the output of CTC, alone or over the words of an n-gram: flashlight-text, through torchaudio."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from finetune.tokenizer import Tokenizer
from mixvec import UserError
from mixvec.text import BLANK, SPACE, TextStyle, normalise_text
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
    some = ", ".join(repr(c) for c, _ in letters.most_common(5)) or "no letter"
    if not lexicon:
        raise UserError(f"{name}: none of its {len(lost)} words, such as {lost[0]!r}, can be written with the model's "
                        f"vocabulary, which lacks {some}: an n-gram of another language, alphabet or case; "
                        f"text.normalise={style}")  # fmt: skip
    return lexicon, [f"WARNING {name}: skipped {len(lost)} of {len(lost) + len(lexicon)} words, such as {lost[0]!r}; "
                     f"characters that the vocabulary lacks: {some}"] if lost else []  # fmt: skip


def out_of_vocabulary(texts: Iterable[str], lexicon: dict[str, list[int]], tokenizer: Tokenizer, name: str) -> str:
    """A line on the words of texts that the n-gram lacks, which the search can never output.

    Raises:
        UserError: the n-gram has none of them.
    """
    known = {tuple(tokens) for tokens in lexicon.values()}
    words = Counter(word for text in texts for word in text.split())
    lacking = Counter({word: n for word, n in words.items() if tuple(tokenizer.encode(word)) not in known})
    total, lost = words.total(), lacking.total()
    some = ", ".join(word for word, _ in lacking.most_common(5))
    if total and lost == total:
        raise UserError(f"{name}: has none of the words of the texts ({some}): is it of another language or case?")
    return f"{name}: {lost} of {total} words ({lost / max(total, 1):.1%}) are not in it, such as {some or 'none'}"


def words_of(path: Path) -> list[str]:
    """The words of an ARPA file, in its order, except <s>, </s> and <unk>.

    Raises:
        UserError: it is not an ARPA file.
    """
    words, inside = [], False
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        break
                    inside = line.strip() == "\\1-grams:"
                elif inside and line.strip():
                    words.append(line.rstrip("\n").split("\t")[1])
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise UserError(f"{path}: not readable as an ARPA file ({error})") from error
    found = [word for word in words if word.lower() not in MARKS]
    if not found:
        raise UserError(f"{path}: no words of an n-gram in it; it must be an ARPA file, neither compressed nor binary")
    return found


def prefix_beam(log_probs: Sequence[Tensor], beam: int) -> list[list[int]]:
    """The most probable token sequence for each utterance's log-probabilities (T, V), summed over its alignments.

    Prefix search (Graves et al. 2006; Hannun et al., arXiv 1408.2873, algorithm 1), exact where ``beam`` holds every
    prefix.

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

        self.vocabulary, self.characters = list(vocabulary), SPACE in vocabulary
        self._folder = tempfile.TemporaryDirectory(prefix="mixvec-lexicon-")
        self._lexicon = str(Path(self._folder.name) / "lexicon.txt")
        # Token numbers, not the tokens, so that none can be mistaken for the file format's own characters.
        ends = [self.vocabulary.index(SPACE)] if self.characters else []
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
            lexicon=self._lexicon, tokens=[str(number) for number in range(len(self.vocabulary))], lm=self._lm,
            lm_weight=weight, word_score=bonus, beam_size=beam, beam_size_token=min(100, len(self.vocabulary)),
            blank_token="0", sil_token=str(self.vocabulary.index(SPACE if self.characters else BLANK)),
        )  # fmt: skip
        found = []
        for own in log_probs:
            best = decoder(self._ended(own).unsqueeze(0))[0] if len(own) else []
            # Its words, not its tokens, which may end a word on a doubled piece without the blank that CTC needs.
            found.append([token for word in (best[0].words if best else []) for token in self._spelled[word]])
        return found

    def _ended(self, log_probs: Tensor) -> Tensor:
        """The log-probabilities with a final frame of a space: lexicon words end in one, and training texts do not."""
        if not self.characters:
            return log_probs.float()
        last = torch.full((1, log_probs.shape[1]), OTHER_TOKENS)
        last[0, self.vocabulary.index(SPACE)] = 0.0
        return torch.cat([log_probs.float(), last])
