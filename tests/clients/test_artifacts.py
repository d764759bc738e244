"""scripts/push-artifact.sh: whatever has a media type, pushed by curl alone."""

import io
import json
import subprocess
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.clients import reading, targets
from tests.clients.layouts import sha256
from tests.clients.targets import Target
from tests.clients.tools import CommandFailed, run
from tests.needs import program

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True),
]

_SCRIPT = targets.CHECKOUT / "scripts/push-artifact.sh"


@pytest.fixture
def repository() -> str:
    return f"{uuid.uuid4().hex[:12]}/artifact"


def _push(target: Target, place: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Digest of what the script has pushed."""
    program("curl")
    return run([_SCRIPT, *options, f"http://{target.address}/{place}", *arguments], timeout_s=120).strip()


def _manifest(target: Target, repository: str, reference: str) -> Any:
    answer = reading.get(target, f"{repository}/manifests/{reference}")
    assert answer.status == 200
    return answer.json()


@pytest.mark.feature("curl", "push-artifact.sh: files with types of their own, an empty one among them")
def test_files_with_types_of_their_own_come_back(target: Target, repository: str, tmp_path: Path) -> None:
    contents = {'a "quoted" name.bin': bytes(range(256)) * 20_000, "empty": b"", "read: me": b"# About\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = [f"{tmp_path / name}:application/vnd.example.weights" for name in contents]
    options = ("-t", "application/vnd.example.model", "-a", 'org.example.note=of "today"', "-a", "org.example.n=1=1")
    for _ in range(2):  # the second finds everything there
        digest = _push(target, f"{repository}:v1", *files, options=options)
    manifest = _manifest(target, repository, "v1")
    assert manifest == _manifest(target, repository, digest)
    assert manifest["artifactType"] == "application/vnd.example.model"
    assert manifest["annotations"] == {"org.example.note": 'of "today"', "org.example.n": "1=1"}
    for layer, (name, content) in zip(manifest["layers"], contents.items(), strict=True):
        assert layer["mediaType"] == "application/vnd.example.weights"
        assert layer["annotations"]["org.opencontainers.image.title"] == name
        assert reading.get(target, f"{repository}/blobs/{layer['digest']}").body == content


@pytest.mark.feature("curl", "push-artifact.sh: a Helm chart")
def test_a_helm_chart_is_pushed_in_helms_form(target: Target, repository: str, tmp_path: Path) -> None:
    meta = {"apiVersion": "v2", "name": "artifact", "version": "1.2.3", "type": "application"}
    (tmp_path / "config.json").write_text(json.dumps(meta))
    chart = tmp_path / "artifact-1.2.3.tgz"
    with tarfile.open(chart, "w:gz") as archive:
        described = "".join(f"{key}: {value}\n" for key, value in meta.items()).encode()
        member = tarfile.TarInfo("artifact/Chart.yaml")
        member.size = len(described)
        archive.addfile(member, io.BytesIO(described))
    config = f"{tmp_path / 'config.json'}:application/vnd.cncf.helm.config.v1+json"
    layer = f"{chart}:application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    _push(target, f"{repository}:1.2.3", layer, options=("-c", config))
    manifest = _manifest(target, repository, "1.2.3")
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
    (described_layer,) = manifest["layers"]
    assert described_layer["mediaType"] == "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    assert reading.get(target, f"{repository}/blobs/{described_layer['digest']}").body == chart.read_bytes()


@pytest.mark.feature("curl", "push-artifact.sh: SBOM and signature as referrers, chained")
def test_an_sbom_and_its_signature_are_found_as_referrers(target: Target, repository: str, tmp_path: Path) -> None:
    for name in ("app", "sbom.json", "signature"):
        (tmp_path / name).write_text(f"{name}\n")
    app = _push(target, f"{repository}:v1", f"{tmp_path / 'app'}:application/octet-stream", options=("-t", "a/app"))
    sbom = _push(target, repository, f"{tmp_path / 'sbom.json'}:text/spdx", options=("-t", "text/spdx", "-s", app))
    signature = _push(target, repository, f"{tmp_path / 'signature'}:a/sig", options=("-t", "a/sig", "-s", sbom))
    (found,) = reading.referrers(target, repository, app)
    assert (found["digest"], found["artifactType"]) == (sbom, "text/spdx")
    (found,) = reading.referrers(target, repository, sbom)
    assert (found["digest"], found["artifactType"]) == (signature, "a/sig")
    assert reading.get(target, f"{repository}/tags/list").json()["tags"] == ["v1"]


@pytest.mark.feature("curl", "push-artifact.sh: the lines of the README, as they stand there")
def test_the_lines_of_the_readme_work_as_they_stand_there(target: Target, tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(_SCRIPT.parent)
    for name in ("weights.bin", "README.md", "sbom.json", "config.json", "web-1.2.3.tgz", "app"):
        (tmp_path / name).write_text(f"{name} {uuid.uuid4()}\n")
    app = _push(target, "team/app:v1", f"{tmp_path / 'app'}:application/octet-stream", options=("-t", "a/app"))
    readme = (targets.CHECKOUT / "README.md").read_text()
    (block,) = (text for text in readme.split("```sh\n")[1:] if text.startswith("scripts/push-artifact.sh"))
    lines = block.partition("```")[0].replace("127.0.0.1:5000", target.address).replace("sha256:...", app)
    pushed = run(["sh", "-euc", f"cd {tmp_path}\n{lines}"], timeout_s=120).split()
    assert len(pushed) == lines.count("scripts/push-artifact.sh") == 3
    assert pushed[1] in [found["digest"] for found in reading.referrers(target, "team/app", app)]
    for repository, tag in (("team/model", "v1"), ("charts/web", "1.2.3")):
        assert reading.get(target, f"{repository}/manifests/{tag}").headers["Docker-Content-Digest"] in pushed


@pytest.mark.feature("curl", "push-artifact.sh: what cannot be pushed is told, with the registry's reason")
def test_what_cannot_be_pushed_is_told_and_leaves_no_name(target: Target, repository: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    file = f"{tmp_path / 'file'}:text/plain"
    absent = sha256(b"absent")
    typed = ("-t", "text/plain")
    cases: list[tuple[str, str, tuple[str, ...], str]] = [
        (f"{repository}:v1", file, (), "say what it is"),
        (f"{repository}:v1", f"{tmp_path}/absent:text/plain", typed, "no such file"),
        (f"{repository}:v1", str(tmp_path / "file"), typed, "expected FILE:TYPE"),
        (f"{repository}:v1", file, (*typed, "-s", absent), f"the subject {absent} is not in {repository}"),
        (f"{repository}:v1", file, (*typed, "-a", "no pair"), "expected KEY=VALUE"),
        (f"{repository}:v1", file, ("-t", "text/\x01"), "control characters"),
        (f"{repository.upper()}:v1", file, typed, "NAME_INVALID"),
        (f"{repository}:-v1", file, typed, "MANIFEST_INVALID"),
    ]
    for place, argument, options, reason in cases:
        with pytest.raises(CommandFailed) as failed:
            _push(target, place, argument, options=options)
        assert reason in str(failed.value)
    listed = reading.get(target, f"{repository}/tags/list")
    assert listed.status == 404 or listed.json()["tags"] == []
    with pytest.raises(CommandFailed, match="expected a URL"):
        run([_SCRIPT, "-t", "text/plain", f"{target.address}/{repository}:v1", file], timeout_s=60)
    assert subprocess.run([_SCRIPT], capture_output=True, timeout=60, check=False).returncode == 1
