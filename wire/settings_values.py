"""Kinds of setting values: what is allowed, and how a value from TOML or from the environment becomes a typed one.

A kind takes `raw` (a TOML value, or a string from the environment) and `base` (the directory that relative paths start
from) and returns the value, or raises ValueError. `allowed` is what a person reads when a value is refused;
`show` is the value as `speedy config show` prints it, in a form that could be written back, but with secrets hidden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024 * GIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]{0,3})")
_PASSWORD = re.compile(r"(://[^:/@]*:).*(@)", re.DOTALL)
_TCP_PORT_MAX = 65535


class Address(NamedTuple):
    """Where a server listens. Port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Kind(Protocol):
    @property
    def allowed(self) -> str: ...

    def parse(self, raw: Any, base: Path) -> Any: ...

    def show(self, value: Any) -> str: ...


def _quantity(raw: Any, units: dict[str, float] | dict[str, int]) -> float:
    """A number, or a string of a number and one of `units`."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError
    if not isinstance(raw, str):
        return raw
    match = _QUANTITY.fullmatch(raw.strip())
    if match is None or match[2].lower() not in units:
        raise ValueError
    return float(match[1]) * units[match[2].lower()] if "." in match[1] else int(match[1]) * units[match[2].lower()]


def without_password(text: str) -> str:
    """`text` with the password of a URL in it hidden; up to the last "@", since a password may hold any character."""
    return _PASSWORD.sub(r"\1***\2", text)


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes, as an integer or "4MiB"."""

    least: int = 0
    most: int = 1 << 62

    @property
    def allowed(self) -> str:
        most = "" if self.most >= 1 << 62 else f" up to {self.show(self.most)}"
        return f'a number of bytes or a size like "4MiB", from {self.show(self.least)}{most}'

    def parse(self, raw: Any, base: Path) -> int:
        number = _quantity(raw, _SIZE_UNITS)
        if number != int(number) or not self.least <= number <= self.most:
            raise ValueError
        return int(number)

    def show(self, value: Any) -> str:
        for unit, size in (("TiB", 1024 * GIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
            if value and value % size == 0:
                return f"{value // size}{unit}"
        return str(value)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, as a number or "30s", "10m", "7d"."""

    least_s: float = 0.001
    most_s: float = 10 * 365 * 86400.0

    @property
    def allowed(self) -> str:
        return (
            f'a number of seconds or a time like "500ms", "30s", "10m", "24h", "7d", '
            f"from {self.show(self.least_s)} to {self.show(self.most_s)}"
        )

    def parse(self, raw: Any, base: Path) -> float:
        seconds = float(_quantity(raw, _DURATION_UNITS))
        if not self.least_s <= seconds <= self.most_s:  # also false for nan
            raise ValueError
        return seconds

    def show(self, value: Any) -> str:
        for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if value and value % seconds == 0:
                return f"{int(value // seconds)}{unit}"
        return f"{value:g}s" if value == 0 or value >= 1 else f"{value * 1000:g}ms"


@dataclass(frozen=True, slots=True)
class Count:
    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def parse(self, raw: Any, base: Path) -> int:
        if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}", raw.strip()):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not self.least <= raw <= self.most:
            raise ValueError
        return raw

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole: 0 to 1, as a number."""

    @property
    def allowed(self) -> str:
        return "a number from 0 to 1"

    def parse(self, raw: Any, base: Path) -> float:
        share = float(_quantity(raw, {"": 1}))
        if not 0 <= share <= 1:  # also true for nan
            raise ValueError
        return share

    def show(self, value: Any) -> str:
        return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Choice:
    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(f'"{name}"' for name in self.names)

    def parse(self, raw: Any, base: Path) -> str:
        if raw not in self.names:
            raise ValueError
        return str(raw)

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Name:
    """An id that also ends up in file names and logs."""

    @property
    def allowed(self) -> str:
        return "a name of 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"

    def parse(self, raw: Any, base: Path) -> str:
        if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", raw):
            raise ValueError
        return raw

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Listen:
    @property
    def allowed(self) -> str:
        return 'HOST:PORT with a port up to 65535, for example "127.0.0.1:5000" or "[::1]:5000"'

    def parse(self, raw: Any, base: Path) -> Address:
        if not isinstance(raw, str):
            raise ValueError
        host, colon, port = raw.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not host or (":" in host) != bracketed or not re.fullmatch(r"[0-9A-Za-z.:%_-]+", host):
            raise ValueError
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > _TCP_PORT_MAX:
            raise ValueError
        return Address(host, int(port))

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class FilePath:
    @property
    def allowed(self) -> str:
        return "a path (relative: to the configuration file's directory, in the environment to the current one)"

    def parse(self, raw: Any, base: Path) -> Path:
        if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
            raise ValueError
        return base / Path(raw).expanduser()

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class PathList:
    at_most: int

    @property
    def allowed(self) -> str:
        return (
            f"a list of at most {self.at_most} paths, in the environment separated by commas "
            "(relative ones as in other keys)"
        )

    def parse(self, raw: Any, base: Path) -> tuple[Path, ...]:
        if isinstance(raw, str):
            raw = [part for part in (piece.strip() for piece in raw.split(",")) if part]
        if not isinstance(raw, list) or len(raw) > self.at_most:
            raise ValueError
        return tuple(FilePath().parse(item, base) for item in raw)

    def show(self, value: Any) -> str:
        return ", ".join(map(str, value))


@dataclass(frozen=True, slots=True)
class Url:
    """The base address of a room: what wire.http.ServiceClient takes."""

    @property
    def allowed(self) -> str:
        return 'a URL of the form "http://host:port"'

    def parse(self, raw: Any, base: Path) -> str:
        if not isinstance(raw, str):
            raise ValueError
        parts = urlsplit(raw.strip())
        extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "http" or not parts.hostname or extra:
            raise ValueError
        if parts.port == 0:  # .port itself raises ValueError when it is not a number up to 65535
            raise ValueError
        return raw.strip().rstrip("/")

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class UrlList:
    @property
    def allowed(self) -> str:
        return 'a list of different URLs of the form ["http://host:port"], in the environment separated by commas'

    def parse(self, raw: Any, base: Path) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = [part for part in (piece.strip() for piece in raw.split(",")) if part]
        if not isinstance(raw, list):
            raise ValueError
        urls = tuple(Url().parse(item, base) for item in raw)
        if len(set(urls)) != len(urls):
            raise ValueError
        return urls

    def show(self, value: Any) -> str:
        return ", ".join(value)


@dataclass(frozen=True, slots=True)
class OriginList:
    """Sites as browsers name them in Origin: scheme, host and port where it is not the scheme's own."""

    @property
    def allowed(self) -> str:
        return (
            'a list of different origins of the form ["https://ui.example"] or ["http://ui.example:8080"], '
            "in the environment separated by commas"
        )

    def parse(self, raw: Any, base: Path) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = [part for part in (piece.strip() for piece in raw.split(",")) if part]
        if not isinstance(raw, list):
            raise ValueError
        origins = tuple(self._origin(item) for item in raw)
        if len(set(origins)) != len(origins):
            raise ValueError
        return origins

    def show(self, value: Any) -> str:
        return ", ".join(value)

    def _origin(self, raw: Any) -> str:
        if not isinstance(raw, str):
            raise ValueError
        parts = urlsplit(raw.strip().lower())
        own_port = {"http": 80, "https": 443}
        extra = parts.path.strip("/") or parts.query or parts.fragment or not parts.netloc.isascii()
        if parts.scheme not in own_port or not parts.hostname or extra or {"@", "*", " "} & set(parts.netloc):
            raise ValueError
        port = parts.port  # raises ValueError when it is not a number up to 65535
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # Browsers leave the scheme's own port out, so that one that is written here would never match.
        return f"{parts.scheme}://{host}" + ("" if port in (None, own_port[parts.scheme]) else f":{port}")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    @property
    def allowed(self) -> str:
        return '"sqlite:///PATH" or "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"'

    def parse(self, raw: Any, base: Path) -> str:
        if not isinstance(raw, str):
            raise ValueError
        scheme, found, rest = raw.strip().partition("://")
        if scheme == "postgres":  # what several hosting tools hand out; SQLAlchemy only knows the long name
            scheme = "postgresql"
        if not found or scheme not in ("sqlite", "postgresql", "postgresql+psycopg2") or not rest.strip("/"):
            raise ValueError
        if scheme == "sqlite":
            if not rest.startswith("/") or ":memory:" in rest:  # a database in memory would forget every name
                raise ValueError
            rest = "/" + str(base / rest[1:])  # "sqlite:///a" is relative, "sqlite:////a" absolute
        return f"{scheme}://{rest}"

    def show(self, value: Any) -> str:
        return without_password(str(value))
