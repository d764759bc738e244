"""How long fuzzing goes on: seconds in CI, as much as one likes by hand.

    make fuzz FUZZ=50          # fifty times as many examples (SPEEDY_SOAK=50)

hypothesis prints what reproduces a failure, its seed among it (`--hypothesis-seed=N` begins with one).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SOAK_FACTOR = max(1, int(os.environ.get("SPEEDY_SOAK") or 1))


def examples(count: int) -> settings:
    """`count` examples in CI. Failures are kept in no database: a tree that was tested holds no more than before."""
    return settings(
        max_examples=count * SOAK_FACTOR,
        deadline=None,  # each exchange has a bound of its own
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
