"""The tokenizer of recognisers whose tokens are parts of words, in transformers: a part that begins with ``▁`` begins a
word."""

from __future__ import annotations

from typing import Any

from transformers import Wav2Vec2CTCTokenizer

SPACE = "▁"


class MixvecTokenizer(Wav2Vec2CTCTokenizer):
    """Tokens to text, with the times of words and characters; it has no model to split a text into tokens."""

    def convert_tokens_to_string(
        self,
        tokens: list[str],
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> dict[str, Any]:
        """The text of CTC's tokens, one for each frame, and the frames of its parts and words."""
        made = super().convert_tokens_to_string(tokens, group_tokens, False, True, False)
        parts = [part | {"char": part["char"].replace(SPACE, " ")} for part in made["char_offsets"] or []]
        words: list[dict[str, Any]] = [{"word": ""}]
        for part in parts:
            first, *others = part["char"].split(" ")  # " the" begins a word, "the" continues one
            for number, letters in enumerate([first, *others]):
                if number and words[-1]["word"]:
                    words.append({"word": ""})
                if letters:
                    words[-1].setdefault("start_offset", part["start_offset"])
                    words[-1] |= {"word": words[-1]["word"] + letters, "end_offset": part["end_offset"]}
        words = [word for word in words if word["word"]]
        return {
            "text": " ".join(word["word"] for word in words),
            "char_offsets": parts if output_char_offsets else None,
            "word_offsets": words if output_word_offsets else None,
        }


MixvecTokenizer.register_for_auto_class("AutoTokenizer")
