"""What a registry says, read without any client: for what no client shows."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

from tests.clients.targets import Target

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def get(target: Target, path: str) -> Answer:
    """GET of a path below /v2/."""
    connection = http.client.HTTPConnection(target.address, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/v2/{path}")
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def push_blob(target: Target, name: str, content: bytes, digest: str) -> None:
    connection = http.client.HTTPConnection(target.address, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", body=content)
        answer = connection.getresponse()
        assert answer.status == http.client.CREATED, answer.read()
    finally:
        connection.close()


def referrers(target: Target, name: str, digest: str) -> list[dict[str, Any]]:
    """Descriptors of the manifests in the repository whose subject is the digest."""
    answer = get(target, f"{name}/referrers/{digest}")
    assert answer.status == http.client.OK
    found: list[dict[str, Any]] = answer.json()["manifests"]
    return found


def push_manifest(target: Target, reference: str, content: bytes, media_type: str) -> None:
    """Under name:tag."""
    name, _, tag = reference.rpartition(":")
    connection = http.client.HTTPConnection(target.address, timeout=_TIMEOUT_S)
    try:
        headers = {"Content-Type": media_type}
        connection.request("PUT", f"/v2/{name}/manifests/{tag}", body=content, headers=headers)
        answer = connection.getresponse()
        assert answer.status == http.client.CREATED, answer.read()
    finally:
        connection.close()
