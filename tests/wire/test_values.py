"""Contract values over JSON: what goes out comes in again, and what does not fit is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from wire.errors import BadRequest
from wire.values import from_json, to_json


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    pair: tuple[str, int]
    state: bytes
    kind: Literal["a", "b"]
    ratio: float
    age_s: float | None
    names: list[str]
    on: bool = True


TREE = Tree(Leaf("ü", 1), (Leaf("x", 2), Leaf("y", 1 << 63)), ("p", -1), b"\x00\xff", "b", 0.5, None, ["n"], False)
PLAIN: dict[str, Any] = to_json(TREE)


def test_a_value_survives_json() -> None:
    assert from_json(Tree, json.loads(json.dumps(to_json(TREE)))) == TREE
    assert from_json(list[Leaf], to_json([TREE.leaf])) == [TREE.leaf]


def test_fields_with_defaults_may_be_missing_and_unknown_ones_are_passed_over() -> None:
    less = {name: value for name, value in PLAIN.items() if name != "on"} | {"newer": [1]}
    assert from_json(Tree, less).on is True


def test_a_whole_number_is_a_number() -> None:
    assert from_json(Tree, PLAIN | {"ratio": 3}).ratio == 3.0


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"leaf": None}, "leaf"),
        ({"leaf": {"name": "x"}}, "leaf: size is missing"),
        ({"leaf": {"name": "x", "size": "1"}}, "leaf.size"),
        ({"leaf": {"name": "x", "size": True}}, "leaf.size"),
        ({"leaf": {"name": "x", "size": 1.0}}, "leaf.size"),
        ({"leaf": {"name": 5, "size": 1}}, "leaf.name"),
        ({"leaves": {}}, "leaves"),
        ({"leaves": [{"name": "x", "size": 1}, 7]}, "leaves[1]"),
        ({"pair": ["p"]}, "pair"),
        ({"pair": ["p", "1"]}, "pair[1]"),
        ({"state": "%%"}, "state"),
        ({"state": 5}, "state"),
        ({"kind": "c"}, "kind"),
        ({"kind": ["a"]}, "kind"),
        ({"ratio": "0.5"}, "ratio"),
        ({"ratio": None}, "ratio"),
        ({"ratio": 10**400}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": float("-inf")}, "ratio"),
        ({"age_s": "1"}, "age_s"),
        ({"names": "n"}, "names"),
        ({"on": 1}, "on"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], place: str) -> None:
    with pytest.raises(BadRequest) as caught:
        from_json(Tree, PLAIN | changed)
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(BadRequest, match="the body"):
        from_json(Tree, data)
