"""fid ranges: reserved from one locked counter row, closed by their owner, never handed out twice."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, insert, select, update

from chunkmaster.interface import FidRange
from chunkmaster.models import fid_counter, fid_ranges
from wire.database import now_s, run_transaction
from wire.errors import NotFound, Unavailable

#: fids are signed 64-bit columns in databases
FID_MAX = (1 << 63) - 1


def reserve(engine: Engine, owner: str, count: int, above_fid: int) -> FidRange:
    """`count` fids above everything handed out and above `above_fid`.

    The counter moves in the transaction that records the range: a commit whose answer is lost burns a range, it never
    gives one twice.
    """

    def write(connection: Connection) -> FidRange:
        counter = connection.execute(
            select(fid_counter.c.last_fid, fid_counter.c.last_range_id).with_for_update()
        ).one_or_none()
        if counter is None:
            raise Unavailable("the database holds no cluster yet: run `speedy migrate`")
        first = max(counter.last_fid, above_fid) + 1
        reserved = FidRange(range_id=counter.last_range_id + 1, first=first, last=first + count - 1, owner=owner)
        if reserved.last > FID_MAX:
            raise Unavailable(f"no fids are left: {first - 1} is in use, {FID_MAX} is the highest")
        connection.execute(update(fid_counter).values(last_fid=reserved.last, last_range_id=reserved.range_id))
        connection.execute(
            insert(fid_ranges).values(
                range_id=reserved.range_id,
                first_fid=reserved.first,
                last_fid=reserved.last,
                owner=owner,
                opened_s=now_s(),
            )
        )
        return reserved

    return run_transaction(engine, write, isolation="READ COMMITTED")


def close(engine: Engine, range_id: int) -> None:
    """Mark a range closed; the time of the first closing stays. Raises NotFound for an unknown one."""
    if not 0 < range_id <= FID_MAX:  # no column could hold it
        raise NotFound(f"no fid range {range_id}")

    def write(connection: Connection) -> None:
        row = connection.execute(
            select(fid_ranges.c.closed_s).where(fid_ranges.c.range_id == range_id).with_for_update()
        ).one_or_none()
        if row is None:
            raise NotFound(f"no fid range {range_id}")
        if row.closed_s is None:
            connection.execute(update(fid_ranges).where(fid_ranges.c.range_id == range_id).values(closed_s=now_s()))

    run_transaction(engine, write, isolation="READ COMMITTED")
