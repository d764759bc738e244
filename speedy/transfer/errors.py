"""What can go wrong in a transfer.

TransferError
├── Refused               the registry answered with an error (status, codes)
│   └── Busy              ... that may pass: 408, 429, 5xx (retry_after_s)
├── Unreachable           no connection, a time-out, a connection that broke
│   └── NobodyThere       ... refused where nothing has ever answered
├── Damaged               bytes do not have the digest or the size they are named by
└── Stopped               somebody pressed Ctrl-C, or another layer failed
"""

from __future__ import annotations

from typing import ClassVar

from wire.errors import SpeedyError


class TransferError(SpeedyError):
    code: ClassVar[str] = "transfer_failed"


class Refused(TransferError):
    """`answered` is the answer's status, `codes` the codes of its errors where it had the OCI form."""

    def __init__(self, message: str, status: int, codes: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.answered = status
        self.codes = codes


class Busy(Refused):
    """Trying again may help; `retry_after_s` is what the registry asked for, 0 when it said nothing."""

    retryable: ClassVar[bool] = True

    def __init__(
        self, message: str, status: int, codes: frozenset[str] = frozenset(), retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message, status, codes)
        self.retry_after_s = retry_after_s


class Unreachable(TransferError):
    retryable: ClassVar[bool] = True


class NobodyThere(Unreachable):
    """Nothing listens at the address, and never did while this run asked: worth a few tries, not minutes."""


class Damaged(TransferError):
    pass


class Stopped(TransferError):
    pass
