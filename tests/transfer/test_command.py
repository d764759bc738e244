"""The command line itself: what it refuses, what it prints, and several of it at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from speedy.transfer.authorization import RegistryAuthorization
from speedy.transfer.connection import Connection, Tls
from speedy.transfer.errors import NobodyThere, Unreachable
from speedy.transfer.repository import Repository
from tests.clients.images import Image, Index, layout_blobs
from tests.ports import free_port
from tests.transfer.conftest import Client
from tests.transfer.small_registry import Content, SmallRegistry, digest_of


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["push", "/none/such", "localhost:1/a"], "no such file or directory"),
        (["push", "none.tar", "localhost:1/a"], "no such file or directory"),
        (["push", "docker-archive:none.tar", "localhost:1/a"], "no such file or directory"),
        (["push", "oci:none:v1", "localhost:1/a"], "no such file or directory"),
        (["push", "oci:x", "oci:./y"], "is a place on this machine"),
        (["pull", "oci:./x", "localhost:1/a"], "is a place on this machine"),
        (["push", "oci:x", "localhost:port/a"], "is not HOST or HOST:PORT"),
        (["push", "oci:/none/such", "localhost:1/Upper"], "not the name of a repository"),
        (["push", "oci:x", "localhost:1/a", "--piece", "1"], "a number of bytes"),
        (["push", "oci:x", "localhost:1/a", "--username", "ann"], "belong together"),
        (["pull", "localhost:1/a"], "Missing argument"),
        (["pull", "localhost:1/a", "x", "--jobs", "0"], "jobs"),
    ],
)
def test_a_wrong_command_line_ends_with_2(client: Client, arguments: list[str], says: str) -> None:
    done = client.run(*arguments, code=2)
    assert says in done.stderr
    assert not client.cache.exists()


def test_what_is_not_there_ends_with_1_and_says_so(client: Client, platforms: Index, tmp_path: Path) -> None:
    assert "no index.json" in client.run("push", f"oci:{tmp_path}", "localhost:1/a", code=1).stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("mine")
    with SmallRegistry() as registry:
        done = client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout", code=1)
        assert "404" in done.stderr
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        done = client.run("pull", f"{registry.address}/a:v1", tmp_path / "full", code=1)
        assert "neither empty nor an OCI layout" in done.stderr
        assert "has nothing named v9" in client.run(
            "push", f"{platforms.layout}:v9", f"{registry.address}/a:v1", code=1
        ).stderr  # fmt: skip
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter"]
    done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--retries", "0", code=1)
    assert "refused" in done.stderr
    assert "the same command goes on" in done.stderr


def test_what_cannot_be_had_leaves_nothing_and_no_hope(client: Client, platforms: Index, tmp_path: Path) -> None:
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        for destination in ("layout", "oci-archive:image.tar", "image.tar"):
            kind, colon, name = destination.rpartition(":")
            for wrong in (["a:v2"], ["a:v1", "--platform", "plan9/mips"]):
                done = client.run(
                    "pull", f"{registry.address}/{wrong[0]}", f"{kind}{colon}{tmp_path}/{name}", *wrong[1:], code=1
                )
                assert "404" in done.stderr or "there is no image for plan9/mips" in done.stderr
                assert "the same command" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"client"}


def test_an_image_of_another_platform_is_refused_where_one_is_asked_for(
    client: Client, small: Image, platforms: Index, tmp_path: Path
) -> None:
    with SmallRegistry() as registry:
        place = f"{registry.address}/a"
        done = client.run("push", small.archive, f"{place}:v1", "--platform", "linux/arm64", code=1)
        assert "there is no image for linux/arm64; there is one, for linux/amd64" in done.stderr
        assert (registry.content.blobs, registry.content.manifests) == ({}, {})
        client.run("push", small.archive, f"{place}:v1", "--platform", "linux/amd64")
        done = client.run("pull", f"{place}:v1", tmp_path / "none", "--platform", "linux/arm64", code=1)
        assert "there is no image for linux/arm64; there is one, for linux/amd64" in done.stderr
        client.run("pull", f"{place}:v1", tmp_path / "variant", "--platform", "linux/amd64/v2")
        # Where nothing was asked for, this machine's platform is no more than a preference.
        client.run("push", platforms.layout, f"{place}:other", "--platform", "linux/arm64")
        client.run("pull", f"{place}:other", tmp_path / "other.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"client", "variant", "other.tar"}


def test_what_names_no_platform_is_taken_for_any(client: Client, tmp_path: Path) -> None:
    chart = b'{"name": "chart", "os": "plan9", "architecture": "mips"}'
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest_of(chart), "size": len(chart)}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}).encode()
    stored = Content(blobs={digest_of(chart): chart}, manifests={"v1": (kind, manifest)})
    with SmallRegistry(content=stored) as registry:
        client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout", "--platform", "linux/amd64")
    assert digest_of(chart) in layout_blobs(tmp_path / "layout")


def test_where_nothing_listens_it_gives_up_after_seconds(client: Client, platforms: Index, tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}/a:v1"
    for arguments in (["push", platforms.layout, place], ["pull", place, tmp_path / "layout"]):
        start_s = time.monotonic()
        done = client.run(*arguments, code=1)
        assert "Connection refused: no registry listens there" in done.stderr.splitlines()[-2]
        assert 2.0 < time.monotonic() - start_s < 30.0  # a registry that is being started has some time
    assert not (tmp_path / "layout").exists()


def test_who_has_answered_once_is_waited_for() -> None:
    with SmallRegistry() as registry:
        base_url = f"http://{registry.address}"
        connection = Connection(base_url, Tls(), RegistryAuthorization(base_url, None), agent="test")
        repository = Repository(connection, "a", may_write=True)
        repository.greet()
    connection.close()  # also the connection that was kept
    with pytest.raises(Unreachable, match="refused") as caught:
        repository.greet()
    connection.close()
    assert not isinstance(caught.value, NobodyThere)


def test_a_name_that_does_not_exist_is_told_at_once_and_before_layers_are_packed(client: Client, small: Image) -> None:
    done = client.run("push", small.archive, "registry.invalid/a:v1", code=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: HEAD https://registry.invalid/v2/a/blobs/")
    assert "trying again" not in line
    assert not any((client.cache / "speedy" / "layers").iterdir())


def test_only_an_error_that_may_pass_says_that_the_same_command_goes_on(
    client: Client, platforms: Index, tmp_path: Path
) -> None:
    with SmallRegistry() as registry:
        source = f"{registry.address}/a:v1"
        refused = client.run("pull", source, tmp_path / "layout", code=1)
        assert "404" in refused.stderr
        refused_json = client.run("pull", source, tmp_path / "layout", "--json", code=1)
    gone = client.run("push", platforms.layout, source, "--retries", "0", code=1)
    gone_json = client.run("push", platforms.layout, source, "--retries", "0", "--json", code=1)
    assert "the same command goes on" not in refused.stderr
    assert "the same command goes on" in gone.stderr
    assert [json.loads(done.stdout.splitlines()[-1])["again"] for done in (refused_json, gone_json)] == [False, True]


def test_json_is_one_object_per_line_also_for_an_error(client: Client, platforms: Index) -> None:
    with SmallRegistry() as registry:
        done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in events} == {"blob", "done", "result"}
    assert events[-1]["digest"] == platforms.digest
    done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--json", "--retries", "0", code=1)
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "error"


def test_quiet_says_the_digest_and_nothing_else(client: Client, platforms: Index) -> None:
    with SmallRegistry() as registry:
        done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--quiet")
    assert (done.stdout, done.stderr) == (f"{platforms.digest}\n", "")


def test_several_runs_at_once_share_a_layout(client: Client, platforms: Index, tmp_path: Path) -> None:
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--quiet")
        content = registry.content
        tags = [f"t{number}" for number in range(4)]
        content.manifests |= dict.fromkeys(tags, content.manifests["v1"])
        runs = [client.start("pull", f"{registry.address}/a:{tag}", tmp_path / "layout", "--quiet") for tag in tags]
        for run in runs:
            said, _ = run.communicate(timeout=120)
            assert run.returncode == 0, said
    assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
    named = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    assert sorted(entry["annotations"]["org.opencontainers.image.ref.name"] for entry in named) == tags
    assert sorted(path.name for path in (tmp_path / "layout").iterdir()) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.parametrize("digest", ["sha256:../../../x", "sha256:", "md5:0", f"sha256:{'A' * 64}", 7])
def test_a_digest_that_is_none_makes_no_file(client: Client, tmp_path: Path, digest: object) -> None:
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 1},
        "layers": [],
    }
    content = json.dumps(manifest).encode()
    stored = Content(manifests={"v1": (str(manifest["mediaType"]), content)})
    with SmallRegistry(content=stored) as registry:
        done = client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout", code=1)
    assert digest_of(content) in done.stderr or "not a digest" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"client"}
