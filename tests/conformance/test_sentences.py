"""sentences.toml names tests that are there, and every test here stands in it."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CHECKOUT = FOLDER.parents[1]

SENTENCES: dict[str, dict[str, dict[str, Any]]] = tomllib.loads((FOLDER / "sentences.toml").read_text())


def names_here() -> set[str]:
    found: list[str] = []
    for path in FOLDER.glob("test_*.py"):
        if path != Path(__file__):
            tree = ast.parse(path.read_text())
            found += [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {name for name in found if name.startswith("test_")}


def anchors_by_test() -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for anchor, sentences in SENTENCES.items():
        for sentence in sentences.values():
            for test in sentence.get("tests", ()):
                found[test].add(anchor)
    return found


def test_each_sentence_has_a_test_or_a_reason_for_none() -> None:
    for anchor, sentences in SENTENCES.items():
        for number, sentence in sentences.items():
            place = f"{anchor} {number}"
            assert sentence["says"], place
            assert set(sentence) - {"says", "level"} in ({"tests"}, {"client"}, {"unused"}), place
            assert all(sentence[key] for key in sentence), place
            assert ("level" in sentence) == number.isdigit(), place
            assert sentence.get("level", "MUST") in ("MUST", "SHOULD", "MAY"), place


def test_sentences_are_numbered_without_gaps() -> None:
    for anchor, sentences in SENTENCES.items():
        numbers = [int(number) for number in sentences if number.isdigit()]
        assert numbers == list(range(1, len(numbers) + 1)), anchor


def test_what_the_table_names_is_there_and_what_is_there_it_names() -> None:
    named = set(anchors_by_test())
    elsewhere = {test for test in named if "/" in test}
    assert named - elsewhere == names_here()
    assert all((CHECKOUT / path).is_file() for path in elsewhere)


def test_each_test_is_named_by_the_heading_of_one_of_its_sentences() -> None:
    for test, anchors in anchors_by_test().items():
        if "/" not in test:
            assert any(test.startswith(f"test_{anchor.replace('-', '_')}_") for anchor in anchors), test
