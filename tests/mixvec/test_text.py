"""Text: what is learned and scored, and that the same characters come back."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixvec.text import build_vocabulary, encode_text, normalise_text, unknown_characters


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Hello, World!", "hello world"),
        ("  two\twords\n", "two words"),
        ("don't 'quote' it'", "don't quote it"),
        ("it’s a rock’n’roll", "it's a rock'n'roll"),
        ("twenty-one", "twenty one"),
        ("5 € + 3 $ = §", "5 3"),
        ("Çà, ÉTÉ", "çà été"),
        ("e\u0301te\u0301", "été"),
        ("ẹ̀kọ́ Yorùbá", unicodedata.normalize("NFC", "ẹ̀kọ́ yorùbá")),
        ("شغّل الضوء", "شغّل الضوء"),
        ("“quoted” – dash…", "quoted dash"),
        ("word—word, half–hearted", "word word half hearted"),
        ("' - ...", ""),
        ("c:\u0327a", "ça"),
        ("", ""),
        ("yes/no", "yes no"),
        ("wait...what", "wait what"),
        ("hello,world snake_case AT&T", "hello world snake case at t"),
        ("$5.00, 1,000 at 12:30.", "5.00 1,000 at 12:30"),
        ("50% in 2024.", "50 in 2024"),
        ("İstanbul, DİYARBAKIR", "istanbul diyarbakir"),
        ("می\u200cروم", "می\u200cروم"),
        ("क्\u200dष \u200dx\u200c", "क्\u200dष x"),
        ("so\u00adft \ufeffbom \u200eltr", "soft bom ltr"),
        ("👩\u200d💻 ok", "ok"),
    ],
)
def test_plain_text(text: str, plain: str) -> None:
    assert normalise_text(text) == plain


def test_raw_text_keeps_case_and_punctuation() -> None:
    assert normalise_text("  Don’t  SHOUT-it|e\u0301!\n", "none") == "Don’t SHOUT-it é!"


@given(st.text())
def test_plain_text_is_settled(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert once == " ".join(once.split()) and not set(once) & set('!?"-$|;')


def test_turkish_has_two_letters_i() -> None:
    assert normalise_text("IŞIK, İstanbul!", "turkish") == "ışık istanbul"
    assert normalise_text("IŞIK, İstanbul!") == "işik istanbul"


@given(st.lists(st.text(alphabet="abc éñ'|"), min_size=1))
def test_text_comes_back_from_its_entries(texts: list[str]) -> None:
    texts = [normalise_text(text) for text in texts]
    vocabulary = build_vocabulary(texts)
    assert vocabulary[:2] == ["[PAD]", "|"] and vocabulary[2:] == sorted(set("".join(texts)) - {" "})
    numbers = {entry: number for number, entry in enumerate(vocabulary)}
    for text in texts:
        entries = encode_text(text, numbers)
        assert 0 not in entries
        assert "".join(vocabulary[entry] for entry in entries).replace("|", " ") == text
    assert unknown_characters(texts, vocabulary) == {}


def test_unknown_characters_are_counted_and_left_out() -> None:
    vocabulary = build_vocabulary(["abc"])
    assert encode_text("axb yx", {entry: i for i, entry in enumerate(vocabulary)}) == [2, 3, 1]
    assert list(unknown_characters(["axb yx", "x c"], vocabulary).items()) == [("x", 3), ("y", 1)]
