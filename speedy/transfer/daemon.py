"""The local docker, through its command: that knows where the daemon is and who may use it."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Final

from speedy.transfer.errors import Stopped, TransferError
from speedy.transfer.patience import Stop

_LOOK_EVERY_S: Final = 0.2
#: the longest that saving or loading an image may take
_TIMEOUT_S: Final = 6 * 3600.0
_END_TIMEOUT_S: Final = 10.0
_IMAGE_ID: Final = re.compile(r"(sha256:)?[0-9a-f]{64}")


def image_id(name: str, stop: Stop) -> str | None:
    """What docker calls the image now, which tells its content; None where docker does not say."""
    try:
        said = _docker(["image", "inspect", "--format", "{{.Id}}", name], stop).strip()
    except Stopped:
        raise
    except TransferError:
        return None  # `docker save` will say why
    return said if _IMAGE_ID.fullmatch(said) else None


def save(name: str, path: Path, stop: Stop) -> None:
    """The image as a docker-archive at `path`. Raises TransferError with what docker says."""
    _docker(["save", "--output", str(path), name], stop)


def load(path: Path, stop: Stop) -> None:
    _docker(["load", "--quiet", "--input", str(path)], stop)


def _docker(arguments: list[str], stop: Stop) -> str:
    """What it writes to its standard output."""
    try:
        process = subprocess.Popen(  # noqa: S603 - without a shell
            ["docker", *arguments],  # noqa: S607 - the user's own
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise TransferError(f"docker cannot be run: {error.strerror}") from error
    deadline_s = time.monotonic() + _TIMEOUT_S
    try:
        while True:
            try:
                out, said = process.communicate(timeout=_LOOK_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                stop.check()
                if time.monotonic() > deadline_s:
                    raise Stopped(f"docker {arguments[0]} took more than {_TIMEOUT_S:g} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=_END_TIMEOUT_S)
    if process.returncode != 0:
        raise TransferError(f"docker {arguments[0]}: {said.strip()[-500:] or process.returncode}")
    return out
