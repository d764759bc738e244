"""speedy.transfer.layout: what several runs on one layout do to each other."""

import fcntl
import threading
from pathlib import Path

import pytest

from speedy.transfer import layout as layouts
from speedy.transfer.errors import Stopped, TransferError
from speedy.transfer.layout import Layout
from speedy.transfer.patience import Stop

DIGEST = f"sha256:{'a' * 64}"


def test_a_blob_that_another_run_fetches_is_waited_for(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    began = threading.Event()
    sizes: list[int] = []

    def other_run() -> None:
        began.set()
        with layout.partial(DIGEST, Stop()) as partial:
            sizes.append(partial.size)

    with layout.partial(DIGEST, Stop()) as partial:
        thread = threading.Thread(target=other_run)
        thread.start()
        assert began.wait(20)
        partial.file.write(b"abc")
        partial.file.flush()
    thread.join(20)
    assert sizes == [3], "what the first one left"


def test_nobody_waits_for_another_run_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_PARTIAL_TIMEOUT_S", 0.3)
    layout = Layout.create(tmp_path)
    with (
        layout.partial(DIGEST, Stop()),
        pytest.raises(TransferError, match="another run"),
        layout.partial(DIGEST, Stop()),
    ):
        raise AssertionError("two runs had one file")


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    stop = Stop()
    with layout.partial(DIGEST, Stop()) as partial:
        threading.Timer(0.2, stop.request).start()
        with pytest.raises(Stopped), layout.partial(DIGEST, stop):
            raise AssertionError("two runs had one file")
        with partial.path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the first one holds it still
