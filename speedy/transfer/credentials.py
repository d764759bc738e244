"""Logins as docker keeps them: config.json in $DOCKER_CONFIG or ~/.docker, with the helper programs that it names.

    {"auths": {"registry.example:5000": {"auth": "base64 of user:password"}},
     "credHelpers": {"registry.example": "pass"}, "credsStore": "secretservice"}

A helper is the program docker-credential-NAME: it is given the registry on standard input after the word `get` and
answers {"Username", "Secret"}; the user name "<token>" means that the secret is an identity token.
"""

from __future__ import annotations

import base64
import binascii
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from speedy.transfer.errors import TransferError

_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB_HOSTS: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_TIMEOUT_S: Final = 30.0
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the name that helpers give, no secret


@dataclass(frozen=True, slots=True)
class Login:
    """A user name with a password, or an identity token in their place. Its text shows no secret."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def config_file(environment: Mapping[str, str]) -> Path:
    directory = environment.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path(environment.get("HOME", "/")) / ".docker") / "config.json"


def find_login(host: str, file: Path) -> Login | None:
    """What docker would log in with at `host` ("registry.example:5000"), None for nobody.

    Raises TransferError for a file that cannot be read, and for a helper that does not work.
    """
    config = _read(file)
    helpers = config.get("credHelpers") or {}
    store = config.get("credsStore") or ""
    auths = config.get("auths") or {}
    if not isinstance(helpers, dict) or not isinstance(store, str) or not isinstance(auths, dict):
        raise TransferError(f"{file}: auths, credHelpers or credsStore is not of docker's form")
    for key in _keys(host):
        helper = helpers.get(key) or store
        login = _from_helper(str(helper), key) if helper else None
        login = login or _from_entry(_entry(auths, key), file, key)
        if login is not None:
            return login
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TransferError(f"docker's configuration {file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise TransferError(f"docker's configuration {file} is not a JSON object")
    return config


def _keys(host: str) -> Iterator[str]:
    if host in _HUB_HOSTS:
        yield _HUB_KEY
    yield host


def _entry(auths: dict[str, Any], key: str) -> Any:
    """Old dockers wrote whole addresses; the host in them is what counts."""
    if key in auths:
        return auths[key]
    for name, entry in auths.items():
        if name.removeprefix("https://").removeprefix("http://").partition("/")[0] == key:
            return entry
    return None


def _from_entry(entry: Any, file: Path, key: str) -> Login | None:
    if not isinstance(entry, dict):
        return None
    token = str(entry.get("identitytoken") or "")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"]), validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise TransferError(f"{file}: the login of {key} is not base64") from error
        username, _, password = text.partition(":")
    return Login(username, password, token) if username or token else None


def _from_helper(helper: str, key: str) -> Login | None:
    if "/" in helper:
        raise TransferError(f"{helper!r} is not the name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(  # noqa: S603 - the user's own configuration names it
            [program, "get"], input=key, capture_output=True, text=True, timeout=_HELPER_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise TransferError(f"docker's configuration names {program} for {key}; there is no such program") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransferError(f"{program} does not work: {error}") from error
    if done.returncode != 0:
        # Every helper says by an exit code only that it failed, and by words that it merely knows nothing.
        if "not found" in (done.stdout + done.stderr).lower():
            return None
        raise TransferError(f"{program} failed for {key}: {(done.stdout or done.stderr).strip()[:300]}")
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise TransferError(f"{program} gave no login in the form of docker's helpers") from error
    return Login(identity_token=secret) if username == _TOKEN_USER else Login(username, secret)
