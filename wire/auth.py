"""Service-to-service authentication: every internal call is signed with the key that all rooms of a cluster share.

    Authorization: Speedy-HMAC-SHA256 t=<seconds since 1970>, s=<64 hex digits>

The signature is HMAC-SHA256 over method, request target (path and query exactly as on the wire) and time. A signature
holds for SKEW_MAX_S around the server's clock. Bodies are not signed (chunks carry their CRC-32C), and a replay
inside that window is harmless, because every internal request may be repeated. Confidentiality is the network's or a
proxy's task.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import time
from pathlib import Path

from wire.errors import Unauthorized

SCHEME = "Speedy-HMAC-SHA256"

#: free of the key, and served by threads of their own: how a process is never waits behind what it does
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

#: how far the clocks of two machines of one cluster may be apart, seconds
SKEW_MAX_S = 300

#: shorter secrets can be guessed; longer files are no key
SECRET_BYTES_MIN = 32
SECRET_BYTES_MAX = 4096

_HEADER = re.compile(rf"{SCHEME} t=([0-9]{{1,12}}), ?s=([0-9a-f]{{64}})")


class ClusterKey:
    """The shared secret of one cluster. Raises ValueError for a secret that is too short or too long."""

    def __init__(self, secret: bytes) -> None:
        if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
            raise ValueError(
                f"a cluster key has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, this one has {len(secret)}"
            )
        self._secret = secret

    def sign(self, method: str, target: str, now_s: float | None = None) -> str:
        """Value of the Authorization header for `method` on `target` (path, and query if there is one)."""
        signed_s = int(time.time() if now_s is None else now_s)
        return f"{SCHEME} t={signed_s}, s={self._signature(method, target, signed_s)}"

    def verify(self, header: str | None, method: str, target: str, now_s: float | None = None) -> None:
        """Raises Unauthorized unless `header` is what sign() gives for the same method and target about now."""
        if not header:
            raise Unauthorized("this call needs the cluster key")
        parts = _HEADER.fullmatch(header)
        if parts is None:
            raise Unauthorized("the Authorization header is not one of this cluster")
        signed_s = int(parts[1])
        # The signature first: what the clock says is told to holders of the key only.
        if not hmac.compare_digest(parts[2], self._signature(method, target, signed_s)):
            raise Unauthorized("signed with another cluster key, or for another request")
        skew_s = signed_s - (time.time() if now_s is None else now_s)
        if abs(skew_s) > SKEW_MAX_S:
            raise Unauthorized(
                f"the caller's clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}; "
                f"at most {SKEW_MAX_S} s are allowed"
            )

    def save(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read. Raises FileExistsError: a key in use is never
        replaced."""
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._secret + b"\n")
                file.flush()
                os.fsync(file.fileno())
            # link() refuses an existing name, and the name never stands for half a key.
            os.link(draft, path)
        finally:
            os.unlink(draft)

    @classmethod
    def load(cls, path: Path) -> ClusterKey:
        """The key in `path` (white space around it does not count). Raises OSError, or ValueError naming the file."""
        try:
            return cls(path.read_bytes().strip())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def generate(cls) -> ClusterKey:
        """A new random key of 256 bits, as hex text."""
        return cls(secrets.token_hex(32).encode("ascii"))

    def _signature(self, method: str, target: str, signed_s: int) -> str:
        # Neither a method nor a target can hold a line break, so that no two requests give the same text.
        text = f"speedy-1\n{method}\n{target}\n{signed_s}".encode("utf-8", "surrogateescape")
        return hmac.digest(self._secret, text, "sha256").hex()
