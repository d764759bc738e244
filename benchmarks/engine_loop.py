"""Builds engine_loop.c with the engine's own sources and runs it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from native.build_engine import has_isal

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"
TIMEOUT_S = 600.0


class EngineLoop:
    """The compiled program, in a directory of the caller's."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "engine_loop"
        isal = ["-DSPEEDY_HAVE_ISAL", "-lisal"] if has_isal() else []
        compiler = shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc"))
        sources: list[str | Path] = [HERE / "engine_loop.c", *sorted((NATIVE / "src").glob("*.c"))]
        defines = ["-D_GNU_SOURCE", "-DOPENSSL_API_COMPAT=0x10100000L", *isal[:1]]
        includes: list[str | Path] = ["-I", NATIVE / "include", "-I", NATIVE / "src"]
        libraries = ["-lcrypto", "-lpthread", *isal[1:]]
        command: list[str | Path] = [
            *compiler,
            "-std=gnu11",
            "-O2",
            *defines,
            *includes,
            *sources,
            *libraries,
            "-o",
            self._program,
        ]
        subprocess.run(command, check=True, timeout=TIMEOUT_S)

    def run(self, *arguments: str | int | Path) -> list[float]:
        """The numbers that it prints."""
        done = subprocess.run(
            [self._program, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
        )
        return [float(number) for number in done.stdout.split()]
