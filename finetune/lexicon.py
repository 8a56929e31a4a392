"""Beam search over words with an n-gram: torchaudio's ``ctc_decoder``, which is flashlight-text with KenLM."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mixvec import UserError
from mixvec.text import BLANK, SPACE, TextStyle, normalise_text

from .units import Units

END_OF_WORD = -1e4
"""The log-probability of all else where the end of the last word is told."""


def spell_words(
    words: Iterable[str], units: Units, style: TextStyle, name: str
) -> tuple[dict[str, list[int]], list[str]]:
    """How the vocabulary spells an n-gram's words once they are normalised, and what to know of those.

    Raises:
        UserError: none can be spelled: another alphabet, or another case than ``data.text=raw`` keeps.
    """
    lexicon: dict[str, list[int]] = {}
    changed, lost, letters = [], [], Counter[str]()
    for word in words:
        text = normalise_text(word, style)
        unknown = units.unknown([text])
        entries = [] if unknown or not text else units.encode(text)
        if not entries:
            lost.append(word)
            letters.update(unknown)
            continue
        lexicon[word] = entries
        if text != word:
            changed.append(f"{word} → {text}")
    count, some = len(lost) + len(lexicon), ", ".join(repr(c) for c, _ in letters.most_common(5))
    if not lexicon:
        raise UserError(
            f"{name}: none of its {count} words can be spelled with the model's vocabulary ({lost[0]!r} needs "
            f"{some or 'a letter'}): an n-gram of another language, alphabet or case; data.text={style}"
        )
    notes = []
    if changed:
        notes.append(f"{name}: {len(changed)} of {count} words are spelled as data.text={style} has it: {changed[0]}")
    if lost:
        notes.append(f"WARNING {name}: {len(lost)} of {count} words cannot be spelled and are left out, such as "
                     f"{lost[0]!r}; characters that the vocabulary lacks: {some or 'none'}")  # fmt: skip
    return lexicon, notes


def uncovered(texts: Iterable[str], lexicon: dict[str, list[int]], units: Units, name: str) -> str:
    """How much of the words of texts the n-gram lacks; it can never say them.

    Raises:
        UserError: it has none of them.
    """
    known = {tuple(entries) for entries in lexicon.values()}
    words = Counter(word for text in texts for word in text.split())
    lacking = Counter({word: n for word, n in words.items() if tuple(units.encode(word)) not in known})
    total, lost = words.total(), lacking.total()
    some = ", ".join(word for word, _ in lacking.most_common(5))
    if total and lost == total:
        raise UserError(f"{name}: has none of the words of the texts ({some}): of another language or case?")
    return f"{name}: {lost} of {total} words ({lost / max(total, 1):.1%}) are not in it, such as {some or 'none'}"


class NgramBeam:
    """Beam search over the words of a lexicon, scored by CTC, an n-gram and a bonus per word."""

    def __init__(self, arpa: Path, lexicon: dict[str, list[int]], vocabulary: Sequence[str]) -> None:
        """
        Raises:
            UserError: KenLM cannot read the file, or flashlight-text is not installed.
        """
        try:
            from torchaudio.models.decoder import ctc_decoder

            self._make = ctc_decoder
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import create_word_dict, load_words
        except ImportError as error:
            raise UserError(f"an n-gram needs flashlight-text: pip install flashlight-text ({error})") from error
        self.vocabulary, self.characters = list(vocabulary), SPACE in vocabulary
        self._folder = tempfile.TemporaryDirectory(prefix="mixvec-lexicon-")
        self._lexicon = str(Path(self._folder.name) / "lexicon.txt")
        # Numbers stand for the entries, so that no entry can be mistaken for a mark of the file's format.
        ends = [self.vocabulary.index(SPACE)] if self.characters else []
        self._spelled = {word: [*entries, *ends] for word, entries in lexicon.items()}
        lines = [" ".join([word, *map(str, entries)]) for word, entries in self._spelled.items()]
        Path(self._lexicon).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        try:
            self._lm = KenLM(str(arpa), create_word_dict(load_words(self._lexicon)))
        except RuntimeError as error:
            raise UserError(f"{arpa}: KenLM cannot read it ({' '.join(str(error).split())})") from error

    def decode(self, log_probs: Sequence[Tensor], weight: float, bonus: float, beam: int) -> list[list[int]]:
        """The best entries of each utterance (T, V).

        Args:
            weight: of the n-gram's log10.
            bonus: added for each word; negative for fewer words.
        """
        decoder = self._make(
            lexicon=self._lexicon, tokens=[str(number) for number in range(len(self.vocabulary))], lm=self._lm,
            lm_weight=weight, word_score=bonus, beam_size=beam, beam_size_token=min(100, len(self.vocabulary)),
            blank_token="0", sil_token=str(self.vocabulary.index(SPACE if self.characters else BLANK)),
        )  # fmt: skip
        found = []
        for own in log_probs:
            if not len(own):
                found.append([])
                continue
            best = decoder(self._ended(own).unsqueeze(0))[0]
            # Of its words, not its tokens: it ends a word on a doubled piece without the blank that CTC needs between.
            found.append([entry for word in (best[0].words if best else []) for entry in self._spelled[word]])
        return found

    def _ended(self, log_probs: Tensor) -> Tensor:
        """With one more frame that says a space: spelled words end in one, and training texts do not."""
        if not self.characters:
            return log_probs.float()
        last = torch.full((1, log_probs.shape[1]), END_OF_WORD)
        last[0, self.vocabulary.index(SPACE)] = 0.0
        return torch.cat([log_probs.float(), last])
