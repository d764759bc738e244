"""What docker-compose.yml promises besides push and pull."""

import http.client
import json
import os
import uuid
from pathlib import Path

import pytest

from tests.clients.compose import IMAGE, ComposeCluster
from tests.clients.images import Index, layout_blobs
from tests.clients.targets import wait_ready
from tests.clients.tools import Skopeo

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # images are built in the first one

ONE_SHOT = {"secrets", "migrate", "group-1", "group-2"}
FOREIGN = {"postgres", "nginx"}
REGISTRIES = ("registry-1", "registry-2")
CLUSTER_KEY = "/run/speedy/cluster/cluster.key"
PASSFILE = "/run/speedy/database-client/pgpass"


def _in(compose: ComposeCluster, service: str, *command: str) -> str:
    return compose.docker.run("exec", compose.container(service)["Id"], *command)


def test_every_service_is_healthy_and_every_one_shot_ended_well(compose: ComposeCluster) -> None:
    states = {}
    for container in compose.containers():
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        state = container["State"]
        states[service] = state["ExitCode"] if service in ONE_SHOT else state.get("Health", {}).get("Status")
    assert states.pop("nginx") in ("healthy", "starting")  # the last one to start: nobody waits for it
    assert {state for service, state in states.items() if service in ONE_SHOT} == {0}
    assert {state for service, state in states.items() if service not in ONE_SHOT} == {"healthy"}
    assert len([service for service in states if service.startswith("chunkserver-")]) == 6
    assert {"registry-1", "registry-2", "imageserver-1", "imageserver-2"} <= states.keys()


def test_only_nginx_is_published_and_on_the_loopback_address_only(compose: ComposeCluster) -> None:
    published = {}
    for container in compose.containers():
        bindings = [one for many in (container["HostConfig"]["PortBindings"] or {}).values() for one in many or []]
        if bindings:
            service = container["Config"]["Labels"]["com.docker.compose.service"]
            published[service] = {(binding["HostIp"], binding["HostPort"]) for binding in bindings}
    assert published == {"nginx": {("127.0.0.1", str(compose.port))}}


def test_no_room_runs_as_root(compose: ComposeCluster) -> None:
    for container in compose.containers():
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        if service not in FOREIGN:
            assert container["Config"]["User"] not in ("", "0", "root"), service
        if service not in FOREIGN | ONE_SHOT:
            assert compose.docker.run("exec", container["Id"], "id", "-u").strip() == "10001"


def test_secrets_are_in_volumes_of_their_own_and_nowhere_else(compose: ComposeCluster) -> None:
    key = _in(compose, "registry-1", "cat", CLUSTER_KEY).strip()
    password = _in(compose, "metaserver", "cat", PASSFILE).strip().rpartition(":")[2]
    assert len(key) >= 32
    assert len(password) >= 32
    told = json.dumps(compose.containers()) + compose.compose("config")
    assert key not in told
    assert password not in told
    assert _in(compose, "registry-1", "stat", "-c", "%a", CLUSTER_KEY).strip() == "600"
    # Who needs no database knows no password.
    for service in ("registry-1", "imageserver-1", "chunkserver-1a"):
        mounts = {mount["Destination"] for mount in compose.container(service)["Mounts"]}
        assert mounts & {"/run/speedy/database", "/run/speedy/database-client"} == set(), service


def test_nginx_finds_registries_that_were_made_anew_at_other_addresses(compose: ComposeCluster, skopeo: Skopeo) -> None:
    def addresses() -> set[str]:
        found = (compose.container(name)["NetworkSettings"]["Networks"] for name in REGISTRIES)
        return {network["IPAddress"] for networks in found for network in networks.values()}

    before = addresses()
    nginx = compose.container("nginx")["Id"]
    (network,) = compose.container("nginx")["NetworkSettings"]["Networks"]
    compose.compose("rm", "--stop", "--force", *REGISTRIES)
    # Others take the addresses that are free now.
    squatters = [
        compose.docker.run("run", "--detach", "--network", network, "--entrypoint", "sleep", IMAGE, "600").strip()
        for _ in REGISTRIES
    ]
    try:
        compose.compose("up", "--detach", "--no-build", "--no-deps", *REGISTRIES)
        assert addresses().isdisjoint(before)
        wait_ready(compose.address, Path(os.devnull))
        _each_registry_is_asked(compose)
    finally:
        compose.docker.run("rm", "--force", *squatters)
    assert compose.container("nginx")["Id"] == nginx


def _each_registry_is_asked(compose: ComposeCluster) -> None:
    """Through nginx, of so many requests: it begins with any one of them."""
    mark = uuid.uuid4().hex
    for _ in range(30):
        connection = http.client.HTTPConnection(compose.address, timeout=60)
        connection.request("GET", "/v2/", headers={"X-Request-Id": mark})
        assert connection.getresponse().status == http.client.OK
        connection.close()
    for name in REGISTRIES:
        assert mark in compose.compose("logs", "--no-color", name), name


def test_images_and_secrets_outlive_the_containers(compose: ComposeCluster, skopeo: Skopeo, platforms: Index) -> None:
    reference = f"docker://{compose.address}/{uuid.uuid4().hex[:12]}/platforms:v1"
    exact = ("--all", "--preserve-digests")
    skopeo.copy(f"oci:{platforms.layout}:latest", reference, *exact)
    key = _in(compose, "registry-1", "cat", CLUSTER_KEY)
    before = {container["Id"] for container in compose.containers()}
    compose.down()
    compose.up()
    assert before.isdisjoint(container["Id"] for container in compose.containers())
    assert _in(compose, "registry-1", "cat", CLUSTER_KEY) == key
    back = skopeo.directory / "outlived"
    skopeo.copy(reference, f"oci:{back}:latest", *exact)
    assert layout_blobs(back) == layout_blobs(platforms.layout)
