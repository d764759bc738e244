"""A transfer that is cut off goes on: client killed, server killed, connection lost. Bytes are counted on the way."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clients.images import INDEX_TYPE, Index, layout_blobs
from tests.transfer.conftest import Client
from tests.transfer.proxy import Proxy
from tests.transfer.registries import Registry

pytestmark = pytest.mark.timeout(600)

_PIECE = 8 << 20
#: heads, answers and manifests beside the blobs
_BESIDE = 1 << 20
#: what the kernel keeps for a process that is killed before it could write it down
_BUFFERS = 24 << 20
_WAIT_S = 120.0


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with Proxy(lambda: registry.address) as proxy:
        yield proxy


def _size(index: Index) -> int:
    return sum(layer.length for image in index.images for layer in image.layers)


def _push(huge: Index, proxy: Proxy, repository: str) -> list[str]:
    return ["push", f"oci:{huge.layout}", f"{proxy.address}/{repository}:v1", "--piece", str(_PIECE), "--jobs", "1"]


def _holds(huge: Index, address: str, repository: str) -> None:
    """The registry gives out the big layer as it was."""
    layer = huge.images[0].layers[0]
    with requests.get(f"http://{address}/v2/{repository}/blobs/{layer.digest}", stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        digest = hashlib.sha256()
        for piece in answer.iter_content(1 << 20):
            digest.update(piece)
    assert f"sha256:{digest.hexdigest()}" == layer.digest
    manifest = requests.get(
        f"http://{address}/v2/{repository}/manifests/v1", headers={"Accept": INDEX_TYPE}, timeout=60
    )
    assert f"sha256:{hashlib.sha256(manifest.content).hexdigest()}" == huge.digest


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def _finishes(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0, said
    return said


def test_a_push_whose_client_is_killed_between_two_pieces_sends_nothing_again(
    client: Client, registry: Registry, proxy: Proxy, huge: Index
) -> None:
    repository = uuid.uuid4().hex
    proxy.hold(patches=6)
    process = client.start(*_push(huge, proxy, repository))
    assert proxy.held.wait(_WAIT_S), process.poll()
    _kill(process)
    proxy.cut()
    proxy.wait_for_quiet(_WAIT_S)
    client.run(*_push(huge, proxy, repository))
    assert proxy.up < _size(huge) + _BESIDE
    _holds(huge, registry.address, repository)


def test_a_push_goes_on_by_itself_when_the_registry_is_killed_between_two_pieces(
    client: Client, registry: Registry, proxy: Proxy, huge: Index
) -> None:
    repository = uuid.uuid4().hex
    proxy.hold(patches=6)
    process = client.start(*_push(huge, proxy, repository))
    assert proxy.held.wait(_WAIT_S), process.poll()
    registry.kill()
    registry.start_again()
    proxy.cut()
    said = _finishes(process)
    assert "trying again" in said
    assert proxy.up < _size(huge) + _PIECE + _BESIDE
    _holds(huge, registry.address, repository)


def test_a_push_whose_client_is_killed_in_the_middle_of_a_piece_holds_its_digest(
    client: Client, registry: Registry, proxy: Proxy, huge: Index
) -> None:
    """docker-registry gives up a session whose request was cut: it gets the layer from the start, and only that one."""
    repository = uuid.uuid4().hex
    proxy.hold(up_bytes=50 << 20)
    process = client.start(*_push(huge, proxy, repository))
    assert proxy.held.wait(_WAIT_S), process.poll()
    _kill(process)
    sent = proxy.up
    proxy.cut()
    proxy.wait_for_quiet(_WAIT_S)
    client.run(*_push(huge, proxy, repository))
    again = _PIECE if registry.name == "speedy" else sent
    assert proxy.up < _size(huge) + again + _BESIDE
    _holds(huge, registry.address, repository)


def test_a_push_goes_on_by_itself_when_connections_and_the_registry_are_lost_in_the_middle_of_a_piece(
    client: Client, registry: Registry, proxy: Proxy, huge: Index
) -> None:
    repository = uuid.uuid4().hex
    proxy.hold(up_bytes=30 << 20)
    process = client.start(*_push(huge, proxy, repository))
    assert proxy.held.wait(_WAIT_S), process.poll()
    proxy.hold(up_bytes=25 << 20)
    proxy.cut()
    proxy.hold(up_bytes=25 << 20)
    assert proxy.held.wait(_WAIT_S), process.poll()
    registry.kill()
    registry.start_again()
    sent = proxy.up
    proxy.cut()
    said = _finishes(process)
    again = 2 * _PIECE if registry.name == "speedy" else sent
    assert proxy.up < _size(huge) + again + _BESIDE
    assert "trying again" in said
    _holds(huge, registry.address, repository)


def test_ctrl_c_lets_the_piece_on_its_way_arrive_and_the_next_run_sends_nothing_again(
    client: Client, registry: Registry, proxy: Proxy, huge: Index
) -> None:
    repository = uuid.uuid4().hex
    proxy.hold(up_bytes=36 << 20)
    process = client.start(*_push(huge, proxy, repository))
    assert proxy.held.wait(_WAIT_S), process.poll()
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "Ctrl-C again ends at once" not in (line := process.stdout.readline()):
        assert line, "it ended without a word"
    proxy.go_on()
    said, _ = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    client.run(*_push(huge, proxy, repository))
    assert proxy.up < _size(huge) + _BESIDE
    _holds(huge, registry.address, repository)


@pytest.fixture(scope="module")
def pushed(huge: Index, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Client, str]:
    """Who pushed the image, and the repository where it is."""
    client = Client(tmp_path_factory.mktemp("pusher"))
    client.run("push", f"oci:{huge.layout}", f"{registry.address}/pulled/huge:v1", "--quiet")
    return client, "pulled/huge"


@pytest.fixture
def target(work: Path) -> Iterator[Path]:
    """A layout's directory on disk, removed at once: it gets large."""
    directory = work / uuid.uuid4().hex
    yield directory
    shutil.rmtree(directory)


def test_a_pull_whose_client_is_killed_goes_on_where_its_file_ends(
    proxy: Proxy, huge: Index, pushed: tuple[Client, str], target: Path
) -> None:
    client, repository = pushed
    arguments = ["pull", f"{proxy.address}/{repository}:v1", f"oci:{target}", "--jobs", "1"]
    proxy.hold(down_bytes=50 << 20)
    process = client.start(*arguments)
    assert proxy.held.wait(_WAIT_S), process.poll()
    _kill(process)
    assert list((target / ".partial").iterdir())
    proxy.cut()
    before = proxy.down
    client.run(*arguments)
    assert proxy.down - before < _size(huge) - (50 << 20) + _BUFFERS
    assert layout_blobs(target) == layout_blobs(huge.layout)
    assert not (target / ".partial").exists()


def test_a_pull_goes_on_by_itself_when_the_registry_is_killed(
    registry: Registry, proxy: Proxy, huge: Index, pushed: tuple[Client, str], target: Path
) -> None:
    client, repository = pushed
    proxy.hold(down_bytes=50 << 20)
    process = client.start("pull", f"{proxy.address}/{repository}:v1", f"oci:{target}", "--jobs", "1")
    assert proxy.held.wait(_WAIT_S), process.poll()
    registry.kill()
    registry.start_again()
    proxy.cut()
    said = _finishes(process)
    assert "trying again" in said
    assert proxy.down < _size(huge) + _BUFFERS
    assert layout_blobs(target) == layout_blobs(huge.layout)
