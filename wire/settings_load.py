"""Reading settings: one TOML file and the environment, checked as a whole. The only reader of the environment.

Nothing is half-applied: either every value is good, or SettingsError carries every mistake, each with its key, what was
given and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from wire.settings import Origin, Settings
from wire.settings_values import Kind, without_password

DEFAULT_PATHS = (Path("speedy.toml"), Path("/etc/speedy/speedy.toml"))
FILE_BYTES_MAX = 1024 * 1024
SECTIONS = tuple(f.name for f in fields(Settings) if f.name != "origins")

#: What Kubernetes (and docker's links) set by themselves for a service called "speedy-registry": not ours to judge.
_SERVICE_LINKS = re.compile(r"SPEEDY_[A-Z_]+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP)(_\w+)?)?)")
_SHOWN_MAX = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `given` is the value as it was written ("" when the mistake is the key itself); `key` is "" when
    the mistake is the file."""

    key: str
    origin: Origin
    given: str
    allowed: str

    def __str__(self) -> str:
        if not self.key:
            return f"{self.origin}: {self.allowed}"
        given = f" = {self.given}" if self.given else ""
        return f"{self.key}{given} ({self.origin}): {self.allowed}"


class SettingsError(Exception):
    """Everything that is wrong with the settings."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Effective:
    """A value in force, ready to be shown."""

    key: str
    value: str
    origin: Origin
    says: str
    allowed: str


def load(
    path: Path | None = None, environ: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> Settings:
    """Settings from `path` (None: the first default path that exists), `environ` (None: the process's) and command-line
    `options` ("section.key" -> string), the later ones winning. Raises SettingsError with all mistakes."""
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    path = path if path is not None else next((p for p in DEFAULT_PATHS if p.is_file()), None)
    given: dict[str, tuple[Any, Origin, Path]] = {}
    if path is not None:
        for key, raw in _read_file(path, problems):
            given[key] = (raw, Origin("file", str(path)), path.parent.absolute())
    for key, raw, name in _read_environment(environ, problems):
        given[key] = (raw, Origin("environment", name), Path.cwd())
    for key, raw in (options or {}).items():
        given[key] = (raw, Origin("option"), Path.cwd())
    settings = _apply(given, problems)
    _check_together(settings, problems)
    if problems:
        raise SettingsError(problems)
    return settings


def effective(settings: Settings) -> Iterator[Effective]:
    """Every value in force with its source, in the order of the classes."""
    for section in SECTIONS:
        room = getattr(settings, section)
        for item in fields(room):
            key = f"{section}.{item.name}"
            kind, value = _kind(item), getattr(room, item.name)
            shown = "" if value is None else kind.show(value)
            yield Effective(
                key, shown, settings.origins.get(key, Origin("default")), item.metadata["says"], kind.allowed
            )


def parse_assignment(text: str) -> tuple[str, str]:
    """ "section.key=value" -> (key, value as it would stand in the environment). Raises ValueError with a sentence."""
    key, equals, raw = text.partition("=")
    known = _known()
    if not equals or key not in known:
        raise ValueError(f"{text!r} is not KEY=VALUE with a known key: {_suggest(key, list(known))}")
    kind = _kind(known[key])
    try:
        kind.parse(raw, Path.cwd())
    except (ValueError, OverflowError, RuntimeError) as exc:
        raise ValueError(f"{key} = {_shown(raw)}: allowed is {kind.allowed}") from exc
    return key, raw


def environment_name(key: str) -> str:
    """The variable that sets "section.key"."""
    return "SPEEDY_" + key.replace(".", "_").upper()


def _kind(item: Field[Any]) -> Kind:
    kind: Kind = item.metadata["kind"]
    return kind


def _known() -> dict[str, Field[Any]]:
    defaults = Settings()
    return {f"{section}.{item.name}": item for section in SECTIONS for item in fields(getattr(defaults, section))}


def _read_file(path: Path, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    origin = Origin("file", str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            problems.append(Problem("", origin, "", f"is larger than {FILE_BYTES_MAX} bytes"))
            return
        tree = tomllib.loads(raw.decode())
    except OSError as exc:
        problems.append(Problem("", origin, "", f"cannot be read: {exc.strerror}"))
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        problems.append(Problem("", origin, "", f"is not TOML: {exc}"))
        return
    known = _known()
    for section, table in tree.items():
        if section not in SECTIONS:
            problems.append(Problem(f"[{section}]", origin, "", "unknown section; " + _suggest(section, SECTIONS)))
        elif not isinstance(table, dict):
            problems.append(
                Problem(section, origin, _shown(table), f"is a section; write [{section}] and its keys below")
            )
        else:
            for name, value in table.items():
                key = f"{section}.{name}"
                if key in known:
                    yield key, value
                else:
                    names = [k.partition(".")[2] for k in known if k.startswith(section + ".")]
                    problems.append(Problem(key, origin, _shown(value), "unknown key; " + _suggest(name, names)))


def _read_environment(environ: Mapping[str, str], problems: list[Problem]) -> Iterator[tuple[str, str, str]]:
    by_variable = {environment_name(key): key for key in _known()}
    for name, value in sorted(environ.items()):
        if name in by_variable:
            yield by_variable[name], value, name
            continue
        section = next((s for s in SECTIONS if name.startswith(f"SPEEDY_{s.upper()}_")), None)
        if section is not None and not _SERVICE_LINKS.fullmatch(name):
            names = [v for v in by_variable if v.startswith(f"SPEEDY_{section.upper()}_")]
            problems.append(
                Problem(name, Origin("environment"), _shown(value), "unknown variable; " + _suggest(name, names))
            )


def _apply(given: Mapping[str, tuple[Any, Origin, Path]], problems: list[Problem]) -> Settings:
    known = _known()
    changes: dict[str, dict[str, Any]] = {}
    origins: dict[str, Origin] = {}
    for key, (raw, origin, base) in given.items():
        kind = _kind(known[key])
        section, _, name = key.partition(".")
        try:
            changes.setdefault(section, {})[name] = kind.parse(raw, base)
            origins[key] = origin
        except (ValueError, OverflowError, RuntimeError):  # RuntimeError: "~user" without a home
            problems.append(Problem(key, origin, _shown(raw), f"allowed is {kind.allowed}"))
    settings = Settings(origins=origins)
    return replace(
        settings, **{section: replace(getattr(settings, section), **values) for section, values in changes.items()}
    )


def _check_together(settings: Settings, problems: list[Problem]) -> None:
    """Mistakes that only show when several values are seen together."""

    def problem(key: str, given: object, allowed: str) -> None:
        problems.append(Problem(key, settings.origins.get(key, Origin("default")), str(given), f"allowed is {allowed}"))

    chunks, registry, images = settings.chunkserver, settings.registry, settings.imageserver
    if chunks.volume_bytes_first > chunks.volume_bytes_max:
        problem("chunkserver.volume_bytes_first", chunks.volume_bytes_first, "at most chunkserver.volume_bytes_max")
    if registry.chunk_bytes * 2 > chunks.volume_bytes_first:
        problem("registry.chunk_bytes", registry.chunk_bytes, "at most half of chunkserver.volume_bytes_first")
    for window in ("write_window", "read_window"):
        if getattr(registry, window) > registry.buffer_count:
            problem(f"registry.{window}", getattr(registry, window), "at most registry.buffer_count")
    if chunks.heartbeat_s >= settings.chunkmaster.down_after_s:
        problem("chunkserver.heartbeat_s", chunks.heartbeat_s, "less than chunkmaster.down_after_s")
    if images.replica_timeout_s > images.put_deadline_s:
        problem("imageserver.replica_timeout_s", images.replica_timeout_s, "at most imageserver.put_deadline_s")


def _suggest(name: str, names: list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else "known are " + ", ".join(names)


def _shown(raw: Any) -> str:
    text = without_password(f'"{raw}"' if isinstance(raw, str) else str(raw))  # a URL may stand under any wrong key
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
