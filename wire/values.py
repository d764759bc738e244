"""Contract values (frozen dataclasses) <-> plain JSON, checked on the way in.

What travels between rooms are the dataclasses of the rooms' `interface` modules under the plain names of their fields:
nested dataclasses as objects, tuples and lists as arrays, bytes as base64 text, None as null. Coming in, every value is
held to the field's declared type, so that a core never meets a string where it expects a number; names that the class
does not know are ignored, because a newer sender may know more fields, and fields with a default may be missing.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union

from wire.errors import BadRequest

T = TypeVar("T")

#: turns (JSON value, path for messages) into the field's value
Decoder = Callable[[Any, str], Any]


def to_json(value: Any) -> Any:
    """Plain JSON (dict, list, str, int, float, bool, None) of a contract value."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], data: Any) -> T:
    """The value of type `kind` that `data` (parsed JSON) describes; BadRequest names the first misfit's place."""
    return typing.cast(T, _decoder(typing.cast(Any, kind))(data, ""))


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> Decoder:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object_decoder(kind)
    if kind is bytes:
        return _bytes_decoder
    if kind in (str, int, float, bool):
        return _plain_decoder(kind)
    return _generic_decoder(typing.get_origin(kind), typing.get_args(kind), kind)


def _generic_decoder(origin: Any, arguments: tuple[Any, ...], kind: Any) -> Decoder:
    if origin is Literal:
        return _literal_decoder(arguments)
    if origin in (Union, types.UnionType):
        return _optional_decoder(arguments)
    if origin is list:
        return _list_decoder(_decoder(arguments[0]))
    if origin is tuple and arguments[-1] is Ellipsis:
        items = _list_decoder(_decoder(arguments[0]))
        return lambda data, path: tuple(items(data, path))
    if origin is tuple:
        return _tuple_decoder(tuple(_decoder(argument) for argument in arguments))
    raise TypeError(f"no JSON form is known for {kind!r}")


def _object_decoder(kind: type[Any]) -> Decoder:
    hints = typing.get_type_hints(kind)
    decoders: dict[str, Decoder] = {}
    required: set[str] = set()
    for field in dataclasses.fields(kind):
        decoders[field.name] = _decoder(hints[field.name])
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.add(field.name)

    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise _unfit(path, "an object", data)
        missing = sorted(name for name in required if name not in data)
        if missing:
            raise BadRequest(f"{_place(path)}: {', '.join(missing)} is missing")
        return kind(**{name: decoders[name](data[name], f"{path}.{name}") for name in decoders if name in data})

    return decode


def _list_decoder(item: Decoder) -> Decoder:
    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, list):
            raise _unfit(path, "an array", data)
        return [item(value, f"{path}[{index}]") for index, value in enumerate(data)]

    return decode


def _tuple_decoder(items: tuple[Decoder, ...]) -> Decoder:
    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, list) or len(data) != len(items):
            raise _unfit(path, f"an array of {len(items)}", data)
        pairs = zip(items, data, strict=True)
        return tuple(item(value, f"{path}[{index}]") for index, (item, value) in enumerate(pairs))

    return decode


def _optional_decoder(arguments: tuple[Any, ...]) -> Decoder:
    inner = [argument for argument in arguments if argument is not type(None)]
    if len(inner) != 1 or len(inner) == len(arguments):
        raise TypeError(f"only unions with None have a JSON form, not {arguments!r}")
    decoder = _decoder(inner[0])
    return lambda data, path: None if data is None else decoder(data, path)


def _literal_decoder(allowed: tuple[Any, ...]) -> Decoder:
    def decode(data: Any, path: str) -> Any:
        if data not in allowed:
            raise _unfit(path, "one of " + ", ".join(map(str, allowed)), data)
        return data

    return decode


def _bytes_decoder(data: Any, path: str) -> Any:
    if not isinstance(data, str):
        raise _unfit(path, "base64 text", data)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _unfit(path, "base64 text", data) from exc


def _plain_decoder(kind: type[Any]) -> Decoder:
    name = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
    # bool is an int to Python, but `true` is no fid
    accepted: tuple[type[Any], ...] = (int, float) if kind is float else (kind,)

    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, accepted) or (isinstance(data, bool) and kind is not bool):
            raise _unfit(path, name, data)
        return data

    return _finite_decoder(decode) if kind is float else decode


def _finite_decoder(plain: Decoder) -> Decoder:
    def decode(data: Any, path: str) -> Any:
        try:
            number = float(plain(data, path))
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):  # JSON of Python's kind knows NaN and Infinity; no time or size of ours is one
            raise _unfit(path, "a number", data)
        return number

    return decode


def _unfit(path: str, wanted: str, data: Any) -> BadRequest:
    return BadRequest(f"{_place(path)}: {wanted} is wanted, got {repr(data)[:80]}")


def _place(path: str) -> str:
    return path.lstrip(".") or "the body"
