"""Digests of streams whose state can be stored: libcrypto's, through the compiled engine."""

import threading
from typing import Any, Final

from native._engine import ffi, lib
from native.errors import EngineError
from native.values import Buffer

_KINDS: Final = {"sha256": lib.ENGINE_SHA256, "sha512": lib.ENGINE_SHA512}
_ALGORITHMS: Final = {kind: algorithm for algorithm, kind in _KINDS.items()}


class Digest:
    """SHA-256 or SHA-512 whose state can be stored and continued in another process.

    ``update`` releases the GIL. Calls on one object are serialised.
    """

    __slots__ = ("_handle", "_lock", "algorithm")

    def __init__(self, algorithm: str) -> None:
        if algorithm not in _KINDS:
            raise ValueError(f"unknown digest algorithm {algorithm!r}: one of {', '.join(_KINDS)}")
        self._adopt(lib.engine_digest_new(_KINDS[algorithm]), algorithm)

    def _adopt(self, handle: Any, algorithm: str) -> None:
        if handle == ffi.NULL:
            raise MemoryError("no memory for a digest")
        self.algorithm = algorithm
        self._handle = ffi.gc(handle, lib.engine_digest_free)
        self._lock = threading.Lock()

    @property
    def length(self) -> int:
        """Bytes hashed so far."""
        with self._lock:
            return lib.engine_digest_length(self._handle)

    def update(self, data: Buffer) -> None:
        """Hashes ``data``, which the caller must not change meanwhile."""
        with self._lock, ffi.from_buffer("uint8_t[]", data) as view:
            if lib.engine_digest_update(self._handle, view, len(view)) != 0:
                raise ValueError("the message is longer than the digest allows")

    def copy(self) -> "Digest":
        """An independent digest that continues from here."""
        other = Digest.__new__(Digest)
        with self._lock:
            other._adopt(lib.engine_digest_copy(self._handle), self.algorithm)
        return other

    def hexdigest(self) -> str:
        """The digest of what was hashed so far, lower case; more may follow."""
        text = ffi.new("char[]", lib.ENGINE_DIGEST_HEX_BYTES)
        with self._lock:
            if lib.engine_digest_hex(self._handle, text) != 0:
                raise EngineError("libcrypto could not finish a digest")
        return ffi.string(text).decode("ascii")

    def export_state(self) -> bytes:
        """The state as bytes with version and checksum; import_state continues from it, on any machine."""
        state = ffi.new("uint8_t[]", lib.ENGINE_DIGEST_STATE_BYTES)
        with self._lock:
            lib.engine_digest_export(self._handle, state)
        return bytes(ffi.buffer(state))

    @classmethod
    def import_state(cls, state: bytes) -> "Digest":
        """A digest that continues from an exported state. ValueError when it is damaged or of another version."""
        with ffi.from_buffer("uint8_t[]", state) as view:
            handle = lib.engine_digest_import(view, len(view))
        if handle == ffi.NULL:
            raise ValueError("the digest state is damaged or of an unknown version")
        digest = cls.__new__(cls)
        digest._adopt(handle, _ALGORITHMS[lib.engine_digest_kind_of(handle)])
        return digest
