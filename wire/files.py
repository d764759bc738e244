"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: of directories that hold images, metadata or keys: nobody else on the machine reads them
PRIVATE_DIRECTORY: Final = 0o700


def replace_file(file: Path, text: str, mode: int = 0o644) -> None:
    """Give `file` this content, durably: after a power cut it has the old one or the new one. By way of `<file>.tmp`,
    so by one process at a time. Raises OSError."""
    temporary = file.with_name(f"{file.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
