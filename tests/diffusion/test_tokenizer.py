"""The tokenizer gives every text the tokens that transformers' CLIPTokenizer gives it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from diffusion.tokenizer import Tokenizer
from toyworld.tokenizer import build_tokenizer

TEXTS = 400
PIECES = [
    "a photo of", "sks", "toy", "DOG", "don't", "they've", "I'll", "3.14", "2077", "!", "!!!", "…",
    "<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "é", "e\u0301", "İstanbul", "ß", "straße", "ﬁ",
    "你好", "日本語の写真", "🦊", "👨‍👩‍👧", "\u200d", "Ελληνικά", "עברית", "العربية", "हिन्दी", "½", "①",
    "Ⅷ", "\t", "\n", "\u00a0", "  ", "\u3000", "&amp;", "<b>", "(red:1.4)", "\x00", "\x7f", "\ufeff", "ᾳ",
    "\U0001d518", "naïve", "Å", "_", "-", "'s", "'S", "``", "\\", "a" * 200,
]  # fmt: skip


def texts() -> list[str]:
    choose = random.Random(7)
    made = ["".join(choose.choice(["", " "]) + piece for piece in choose.choices(PIECES, k=choose.randint(0, 14)))
            for _ in range(TEXTS // 2)]  # fmt: skip
    noise = ["".join(chr(choose.choice([choose.randrange(32, 127), choose.randrange(0x80, 0xD7FF)])) for _ in range(20))
             for _ in range(TEXTS // 2)]  # fmt: skip
    return ["", *PIECES, *made, *noise]


def write_old_files(theirs: CLIPTokenizer, folder: Path, **settings: object) -> Path:
    """vocab.json and merges.txt, as Stable Diffusion was published."""
    theirs.save_pretrained(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in whole["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | settings))
    return folder


def assert_equal(folder: Path) -> None:
    theirs, ours = CLIPTokenizer.from_pretrained(folder), Tokenizer.from_directory(folder)
    assert (ours.length, ours.begin, ours.end) == (
        theirs.model_max_length, theirs.bos_token_id, theirs.eos_token_id
    )  # fmt: skip
    assert ours.pad == theirs.pad_token_id
    for text in texts():
        assert ours.ids_of(text) == theirs(text, add_special_tokens=False).input_ids, repr(text)
        assert ours(text) == theirs(text, padding="max_length", truncation=True).input_ids, repr(text)


def test_from_the_one_file_of_today(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    assert_equal(tmp_path)


def test_from_vocabulary_and_merges(tmp_path: Path) -> None:
    assert_equal(write_old_files(build_tokenizer(), tmp_path))


@pytest.mark.parametrize("described", [False, True])
def test_padded_with_an_exclamation_mark_as_in_stable_diffusion_2(described: bool, tmp_path: Path) -> None:
    settings: dict[str, object] = {"pad_token": "!"}
    if described:
        settings["pad_token"] = {
            "content": "!",
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "__type": "AddedToken",
        }
    assert_equal(write_old_files(build_tokenizer(), tmp_path, **settings))


def test_words_that_were_added_later(tmp_path: Path) -> None:
    theirs = build_tokenizer()
    theirs.add_tokens(["<my-toy>", "zwx"])
    theirs.save_pretrained(tmp_path)
    assert_equal(tmp_path)


def test_files_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="startoftext"):
        Tokenizer.from_directory(tmp_path)
