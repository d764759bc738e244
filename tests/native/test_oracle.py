"""A store driven at random beside a dict, and after every step the second reader (oracle.py) agrees with the engine.

``SPEEDY_ORACLE_EXAMPLES`` makes more of it; the default ones are the same in every run.
"""

import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from native.checksum import crc32c
from native.engine import Engine, EngineOptions
from native.errors import ChunkExists, ChunkNotFound

from . import oracle
from .conftest import CLUSTER_ID, MIB, copy_running_store

EXAMPLES = int(os.environ.get("SPEEDY_ORACLE_EXAMPLES", "100"))
STEPS = 40
KEEPER_S = 10.0
OPTIONS = EngineOptions(
    cluster_id=CLUSTER_ID,
    volume_size_first=MIB,
    volume_size_max=MIB,
    reserve_bytes=0,
    appenders=2,
    checkpoint_bytes=256 << 10,
    checkpoint_s=1000,
)
FIDS = st.integers(1, 40)
LENGTHS = st.sampled_from([0, 1, 63, 64, 100, 4096, 5000, 60_000, 262_145])


def payload_of(fid: int, length: int) -> bytes:
    """Few different ones, so that the oracle's slow checksums are mostly remembered."""
    return random.Random(fid % 5).randbytes(length)


def check_volumes(store: oracle.Store) -> None:
    """I5: needles lie behind each other, and none is missing; I4: checkpoints name what the scan finds."""
    for volume in store.volumes.values():
        end, seq = oracle.DATA_START, 1
        for needle in volume.needles:
            assert needle.offset in (end, oracle.round_up(end, oracle.BLOCK))
            assert needle.seq == seq
            assert needle.synced_seq < seq
            seq += needle.seq_span
            end = needle.offset + needle.footprint
        for checkpoint in volume.checkpoints.values():
            scanned = {
                (needle.fid, needle.offset, needle.length, needle.crc)
                for needle in volume.needles
                if needle.offset < checkpoint.tail and not needle.flags & oracle.PAD
            }
            alive = {entry for entry in scanned if entry[:2] not in volume.deleted}
            assert checkpoint.entries <= scanned
            assert alive <= checkpoint.entries
            assert checkpoint.tail <= max(volume.tail, oracle.DATA_START)


def check_agreement(engine: Engine, store: oracle.Store, model: dict[int, bytes]) -> None:
    """The engine, the oracle and the dict hold the same chunks in the same places, and the sums are the same (I7)."""
    assert {fid: needle.payload for fid, (_, needle) in store.live.items()} == model
    listed = {chunk.fid: (chunk.volume, chunk.offset, chunk.length, chunk.crc32c) for chunk in engine.iterate()}
    assert listed == {
        fid: (volume, needle.offset, needle.length, needle.crc) for fid, (volume, needle) in store.live.items()
    }
    stat = engine.stat()
    live = sum(needle.footprint for _, needle in store.live.values())
    assert (stat.chunks, stat.payload_bytes) == (len(model), sum(map(len, model.values())))
    assert stat.live_bytes == live
    assert stat.volume_bytes == sum(volume.size for volume in store.volumes.values())
    pad = sum(volume.pad_bytes for volume in store.volumes.values())
    rest = sum(volume.size - volume.tail for volume in store.volumes.values())
    assert stat.pad_bytes + stat.volume_free_bytes == pad + rest
    assert stat.dead_bytes == stat.volume_bytes - pad - rest - live
    assert (stat.volumes, stat.fid_max) == (len(store.volumes), store.fid_max)
    assert (stat.volumes_failed, stat.volumes_quarantined, stat.damaged_records) == (0, 0, 0)
    assert (store.unreadable, store.damaged_records) == ([], 0)


class StoreBesideDict(RuleBasedStateMachine):
    """Each rule is one call; ``model`` is what must be stored after it."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.base = Path(tempfile.mkdtemp(prefix="speedy-oracle-", dir=shared if shared.is_dir() else None))
        self.directory = self.base / "0"
        self.directory.mkdir()
        self.copies = 0
        self.model: dict[int, bytes] = {}

    @initialize()
    def open(self) -> None:
        self.engine = Engine.open(self.directory, OPTIONS)

    def teardown(self) -> None:
        self.engine.close()
        shutil.rmtree(self.base)

    @rule(fid=FIDS, length=LENGTHS)
    def put(self, fid: int, length: int) -> None:
        payload = payload_of(fid, length)
        if self.model.get(fid, payload) != payload:
            try:
                self.engine.put(fid, payload, crc32c(payload))
            except ChunkExists:
                return
            raise AssertionError("other bytes were taken for a fid")
        self.engine.put(fid, payload, crc32c(payload))
        self.model[fid] = payload

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        fid = data.draw(st.sampled_from(sorted(self.model)))
        self.engine.put(fid, self.model[fid], crc32c(self.model[fid]))

    @rule(fid=FIDS)
    def delete(self, fid: int) -> None:
        assert self.engine.delete(fid) == (self.model.pop(fid, None) is not None)

    @rule(fid=FIDS, data=st.data())
    def read_range(self, fid: int, data: st.DataObject) -> None:
        expected = self.model.get(fid)
        if expected is None:
            try:
                self.engine.read_into(fid, 0, bytearray(1))
            except ChunkNotFound:
                return
            raise AssertionError("a chunk was read that nobody stored")
        start = data.draw(st.integers(0, len(expected)))
        buffer = bytearray(data.draw(st.integers(0, len(expected) - start)))
        self.engine.read_into(fid, start, buffer)
        assert buffer == expected[start : start + len(buffer)]

    @rule()
    def checkpoint(self) -> None:
        self.engine.checkpoint()

    @rule()
    def compact(self) -> None:
        assert self.engine.compact(below=1.0).volumes_damaged == 0

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        before = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        Engine.open(self.directory, OPTIONS).close()
        assert {path.name: path.read_bytes() for path in self.directory.iterdir()} == before  # I13
        self.engine = Engine.open(self.directory, OPTIONS)

    @rule(drop_checkpoints=st.booleans())
    def kill(self, drop_checkpoints: bool) -> None:
        """What a killed process leaves is its files as they are."""
        self.copies += 1
        copy = self.base / str(self.copies)
        copy_running_store(self.directory, copy)
        self.engine.close()
        shutil.rmtree(self.directory)
        self.directory = copy
        if drop_checkpoints:
            for path in copy.glob("*.ckp*"):
                path.unlink()
        self.engine = Engine.open(copy, OPTIONS)

    @invariant()
    def oracle_agrees(self) -> None:
        if not hasattr(self, "engine"):
            return
        deadline = time.monotonic() + KEEPER_S
        while True:
            try:
                store = oracle.read_store(self.directory)
                check_volumes(store)
                check_agreement(self.engine, store, self.model)
                return
            except (AssertionError, OSError, oracle.Unreadable):
                # The keeper may have made a volume or sealed one between two looks; what is wrong stays wrong.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)


TestStoreBesideDict = StoreBesideDict.TestCase
TestStoreBesideDict.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize="SPEEDY_ORACLE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


def test_a_long_manifest_is_rewritten_and_says_the_same(fast_directory: Path) -> None:
    engine = Engine.open(fast_directory, OPTIONS)
    model = {fid: payload_of(fid, 262_145) for fid in range(1, 12)}
    for fid, payload in model.items():
        engine.put(fid, payload, crc32c(payload))
    engine.close()
    before = oracle.read_store(fast_directory)
    manifest = fast_directory / "MANIFEST"
    record = manifest.read_bytes()[:256]
    with manifest.open("ab") as file:
        file.write(bytes(2 * MIB) + record)  # slots of zeros are alignment: history that nobody needs
    engine = Engine.open(fast_directory, OPTIONS)
    try:
        assert manifest.stat().st_size < MIB
        after = oracle.read_store(fast_directory)
        assert after.live == before.live
        assert len(after.volumes) > 2
        check_agreement(engine, after, model)
    finally:
        engine.close()
