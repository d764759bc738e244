"""The cffi build script of the storage engine: makes the extension module ``native._engine``.

Used by setuptools (``cffi_modules`` in setup.py), with paths relative to the project's root as an sdist needs them, and
by hand: ``python native/build_engine.py`` builds the module in place, next to engine.py.

Environment: ``SPEEDY_WERROR=1`` turns warnings into errors, ``SPEEDY_WITHOUT_ISAL=1`` builds the fallback CRC32C even
where ISA-L is installed.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI  # type: ignore[import-untyped,unused-ignore]  # types-cffi may be missing

_HERE = Path(__file__).parent
_PROBE_TIMEOUT_S = 60.0
_ISAL_PROBE = "#include <isa-l.h>\nint main(void) { unsigned char b = 0; return (int)crc32_iscsi(&b, 1, 0); }\n"


def declarations(header: Path) -> str:
    """The part of engine.h between its two cdef marks: the one source of what Python may call."""
    text = header.read_text(encoding="utf-8")
    _, found_begin, rest = text.partition("/* cdef: begin */")
    body, found_end, _ = rest.partition("/* cdef: end */")
    if not (found_begin and found_end):
        raise ValueError(f"{header} lacks its cdef marks")
    return body


def has_isal() -> bool:
    """Whether a program with ISA-L compiles and links here."""
    if os.environ.get("SPEEDY_WITHOUT_ISAL") == "1":
        return False
    compiler = shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc"))
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text(_ISAL_PROBE, encoding="ascii")
        command = [*compiler, str(source), "-o", str(Path(directory, "probe")), "-lisal"]
        try:
            probe = subprocess.run(command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return False
        return probe.returncode == 0


def make_ffi(here: Path) -> FFI:
    """Describes the extension; ``here`` is the native folder as the compiler shall see it."""
    # Python's own flags carry -DNDEBUG and would take the asserts out.
    flags = ["-UNDEBUG", "-std=c11", "-O2", "-D_GNU_SOURCE", "-DOPENSSL_API_COMPAT=0x10100000L", "-fvisibility=hidden"]
    libraries = ["crypto", "pthread"]
    if os.environ.get("SPEEDY_WERROR") == "1":
        flags += ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
    if has_isal():
        flags.append("-DSPEEDY_HAVE_ISAL")
        libraries.append("isal")
    ffi = FFI()
    ffi.cdef(declarations(_HERE / "include" / "engine.h"))
    ffi.set_source(
        "native._engine",
        '#include "engine.h"',
        sources=[str(here / "src" / source.name) for source in sorted((_HERE / "src").glob("*.c"))],
        depends=[
            str(here / "include" / "engine.h"),
            *sorted(str(here / "src" / h.name) for h in (_HERE / "src").glob("*.h")),
        ],
        include_dirs=[str(here / "include"), str(here / "src")],
        libraries=libraries,
        extra_compile_args=flags,
    )
    return ffi


def ffibuilder() -> FFI:
    """For setuptools."""
    return make_ffi(Path("native"))


def build_in_place() -> Path:
    """Compiles the module next to engine.py and returns its path; objects stay in a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        built = Path(make_ffi(_HERE.resolve()).compile(tmpdir=directory, verbose=False))
        target = _HERE.resolve() / built.name
        # Replaced by name: a process that has the old module mapped keeps the old file.
        partial = target.with_suffix(".tmp")
        shutil.copyfile(built, partial)
        partial.rename(target)
        return target


if __name__ == "__main__":
    sys.stdout.write(f"{build_in_place()}\n")
