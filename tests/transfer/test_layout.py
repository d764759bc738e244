"""speedy.transfer.layout: what several runs on one layout do to each other, and archives made from one."""

import fcntl
import hashlib
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from speedy.transfer import layout as layouts
from speedy.transfer.documents import OCI_MANIFEST, digest_of, parse_document
from speedy.transfer.errors import Stopped, TransferError
from speedy.transfer.layout import Layout
from speedy.transfer.packing import write_docker_archive, write_oci_archive
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


def test_the_directory_of_what_is_on_its_way_may_go_and_come_at_any_moment(tmp_path: Path) -> None:
    """Each blob that arrives takes the directory away when no other is on its way."""
    layout = Layout.create(tmp_path)

    def blobs(seed: int) -> None:
        for number in range(250):
            content = b"%d-%d" % (seed, number)
            layout.put(digest_of(content), content, Stop())

    with ThreadPoolExecutor(4) as runs:
        for run in [runs.submit(blobs, seed) for seed in range(4)]:
            run.result(60)
    assert len(list((tmp_path / "blobs" / "sha256").iterdir())) == 1000
    assert not (tmp_path / ".partial").exists()


def test_a_sha512_digest_is_no_name_too_long_for_an_archive(tmp_path: Path) -> None:
    layer = b"layer" * 1000
    layer_digest = f"sha512:{hashlib.sha512(layer).hexdigest()}"
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [layer_digest]}}).encode()
    layout = Layout.create(tmp_path / "layout")
    layout.put(layer_digest, layer, Stop())
    layout.put(digest_of(config), config, Stop())
    layer_entry = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": len(layer)}
    config_entry = {"mediaType": "application/json", "digest": digest_of(config), "size": len(config)}
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_entry, "layers": [layer_entry]}
    image = parse_document(json.dumps(fields).encode(), OCI_MANIFEST)
    write_oci_archive(layout, [layer_digest], tmp_path / "oci.tar", Stop())
    write_docker_archive(layout, image, tmp_path / "docker.tar", [], Stop())
    hexadecimal = layer_digest.removeprefix("sha512:")
    for name, member in (("oci", f"blobs/sha512/{hexadecimal}"), ("docker", f"{hexadecimal}/layer.tar")):
        done = subprocess.run(["tar", "-xOf", tmp_path / f"{name}.tar", member], capture_output=True, check=True)
        assert done.stdout == layer
