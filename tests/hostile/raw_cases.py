"""Bytes that are no proper request, or hardly one: name -> (bytes, statuses of the answers that are right)."""

from __future__ import annotations

from tests.hostile.world import IMAGE, LAYER, REPOSITORY
from tests.registry.documents import sha256

PING = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
MANIFEST = f"/v2/{REPOSITORY}/manifests/raw"
BLOB = f"/v2/{REPOSITORY}/blobs/uploads/?digest={sha256(b'raw')}"
TYPE = "Content-Type: application/vnd.oci.image.manifest.v1+json"

Case = tuple[bytes, tuple[int, ...]]


def head(method: str, target: str, *headers: str, version: str = "HTTP/1.1", host: str = "Host: x") -> bytes:
    lines = [f"{method} {target} {version}", *([host] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def push(*headers: str, body: bytes = b"raw") -> bytes:
    return head("POST", BLOB, *headers) + body


def chunks(body: bytes, method: str = "POST", target: str = BLOB) -> bytes:
    return head(method, target, "Transfer-Encoding: chunked") + body


FRAMING: dict[str, Case] = {
    "length and chunks": (push("Content-Length: 3", "Transfer-Encoding: chunked"), (400,)),
    "chunks and length": (push("Transfer-Encoding: chunked", "Content-Length: 3", body=b"0\r\n\r\n" + PING), (400,)),
    "two equal lengths": (push("Content-Length: 3", "Content-Length: 3"), (400,)),
    "two lengths": (push("Content-Length: 3", "Content-Length: 30"), (400,)),
    "a list of lengths": (push("Content-Length: 3, 3"), (400,)),
    "a negative length": (push("Content-Length: -3"), (400,)),
    "a length with a sign": (push("Content-Length: +3"), (400,)),
    "a length in hexadecimal": (push("Content-Length: 0x3"), (400,)),
    "a length of superscripts": (push("Content-Length: \xb3"), (400,)),
    "a length of nothing": (push("Content-Length: "), (400,)),
    "a length with blanks in it": (push("Content-Length: 1 2"), (400,)),
    "a length beyond all": (push("Content-Length: " + "9" * 30), (400,)),
    "a length of 4,000 digits": (push("Content-Length: " + "9" * 4000), (400,)),
    "a length of 20,000 digits": (push("Content-Length: " + "9" * 20_000), (400,)),
    "a manifest's length beyond all": (head("PUT", MANIFEST, TYPE, "Content-Length: " + "9" * 30) + IMAGE, (413,)),
    "a blank before the colon": (push("Content-Length : 3"), (400,)),
    "chunked twice": (push("Transfer-Encoding: chunked, chunked"), (400,)),
    "chunked in two headers": (push("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), (400,)),
    "chunked, then identity": (push("Transfer-Encoding: chunked, identity"), (400,)),
    "identity": (push("Transfer-Encoding: identity"), (400,)),
    "almost chunked": (push("Transfer-Encoding: xchunked"), (501,)),
    "chunked behind a vertical tab": (push("Transfer-Encoding: \x0bchunked"), (400,)),
    "chunked with a blank before the colon": (push("Transfer-Encoding : chunked"), (400,)),
    "chunked in HTTP/1.0": (
        head("POST", BLOB, "Transfer-Encoding: chunked", version="HTTP/1.0") + b"0\r\n\r\n",
        (400,),
    ),
    "gzip, chunked": (push("Transfer-Encoding: gzip, chunked", body=b"3\r\nraw\r\n0\r\n\r\n"), (501,)),
    "a size with a sign": (chunks(b"-3\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a size with a prefix": (chunks(b"0x3\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a size behind a blank": (chunks(b" 3\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a size before a blank": (chunks(b"3 \r\nraw\r\n0\r\n\r\n"), (400,)),
    "a size of nothing": (chunks(b"\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a size of underscores": (chunks(b"1_0\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a size beyond 64 bits": (chunks(b"1" + b"0" * 20 + b"\r\nraw"), (400,)),
    "the largest size": (chunks(b"fffffffffffffff\r\nraw"), (400,)),
    "a size line without end": (chunks(b"3" + b"0" * 5000), (400,)),
    "an extension that is too long": (chunks(b"3;" + b"x" * 5000 + b"\r\nraw\r\n0\r\n\r\n"), (400,)),
    "an extension with a line feed": (chunks(b"3;a\nb\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a piece shorter than its size": (chunks(b"4\r\nraw\r\n0\r\n\r\n"), (400,)),
    "a piece longer than its size": (chunks(b"2\r\nraw\r\n0\r\n\r\n"), (400,)),
    "pieces that end with bare line feeds": (chunks(b"3\nraw\n0\n\n"), (400,)),
    "a trailer without a colon": (chunks(b"3\r\nraw\r\n0\r\nx\r\n\r\n"), (400,)),
    "trailers without end": (chunks(b"3\r\nraw\r\n0\r\n" + b"a: b\r\n" * 20_000), (400,)),
    "a body that ends in a size": (chunks(b"3"), (400,)),
    "a body that ends in a piece": (chunks(b"3\r\nra"), (400,)),
    "a body that ends before its end": (chunks(b"3\r\nraw\r\n"), (400,)),
    "a body that is cut": (push("Content-Length: 30"), (400,)),
    "a manifest that is cut": (head("PUT", MANIFEST, TYPE, f"Content-Length: {len(IMAGE) + 1}") + IMAGE, (400,)),
    "a manifest in pieces that is cut": (chunks(b"%x\r\n%b\r\n" % (len(IMAGE), IMAGE), "PUT", MANIFEST), (400,)),
    "a chunked answer to nothing": (chunks(b"zz\r\n", "GET", "/v2/"), (200, 400)),
}

HEADS: dict[str, Case] = {
    "a header of 64 KiB": (head("GET", "/v2/", "X: " + "y" * 65_536), (431,)),
    "headers of 200 KiB": (head("GET", "/v2/", *(f"X-{i}: {'y' * 1000}" for i in range(200))), (431,)),
    "101 headers": (head("GET", "/v2/", *(f"X-{i}: y" for i in range(101))), (431,)),
    "10,000 headers": (head("GET", "/v2/", *(f"X{i}: y" for i in range(10_000))), (431,)),
    "a target of 64 KiB": (head("GET", "/v2/" + "a" * 65_536), (414,)),
    "a target of 8,100 bytes": (head("GET", "/v2/" + "a" * 8100), (404,)),
    "a query of 8,100 bytes": (head("GET", "/v2/_catalog?" + "a&" * 4050), (200,)),
    "a header without a name": (head("GET", "/v2/", ": x"), (400,)),
    "a header without a colon": (head("GET", "/v2/", "x"), (400,)),
    "a header with a NUL": (head("GET", "/v2/", "X: a\x00b"), (400,)),
    "a header with a carriage return": (head("GET", "/v2/", "X: a\rb"), (400,)),
    "a folded header": (head("GET", "/v2/", "X: a", " b"), (400,)),
    "a header's name in UTF-8": (head("GET", "/v2/", "\xc3\xa9: x"), (400,)),
    "two hosts": (head("GET", "/v2/", "Host: y"), (400,)),
    "no host": (head("GET", "/v2/", host=""), (400,)),
    "no host in HTTP/1.0": (head("GET", "/v2/", version="HTTP/1.0", host=""), (200,)),
    "an odd host": (head("GET", "/v2/", host="Host: a b/c@\xff"), (200, 400)),
    "an empty host": (head("GET", "/v2/", host="Host: "), (200,)),
    "bare line feeds": (b"GET /v2/ HTTP/1.1\nHost: x\n\n", (400,)),
    "HTTP/0.9": (b"GET /v2/\r\n\r\n", (400,)),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", (400,)),
    "HTTP/1.9": (head("GET", "/v2/", version="HTTP/1.9"), (200,)),
    "HTTP/3.0": (head("GET", "/v2/", version="HTTP/3.0"), (400,)),
    "HTTP/11": (head("GET", "/v2/", version="HTTP/11"), (400,)),
    "http/1.1": (head("GET", "/v2/", version="http/1.1"), (400,)),
    "no version": (b"GET /v2/ \r\nHost: x\r\n\r\n", (400,)),
    "two blanks": (b"GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    "a tab": (b"GET\t/v2/ HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    "a method in lower case": (head("get", "/v2/"), (400,)),
    "a method in mixed case": (head("Get", "/v2/"), (400,)),
    "no method": (b" /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    "a method nobody knows": (head("BREW", "/v2/"), (405,)),
    "a method of 5,000 letters": (head("A" * 5000, "/v2/"), (400, 405)),
    "an expectation": (head("GET", "/v2/", "Expect: wonders"), (417,)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n", (400,)),
    "a greeting of SSH": (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", (400,)),
    "zeros": (bytes(1000) + b"\r\n\r\n", (400,)),
    "line ends": (b"\r\n" * 100, (400,)),
    "a proxy's line": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + PING, (400,)),
}

TARGETS: dict[str, Case] = {
    "absolute": (head("GET", "http://elsewhere.example/v2/"), (200,)),
    "absolute with another scheme": (head("GET", "ftp://elsewhere.example/v2/"), (200, 400, 404)),
    "absolute without a path": (head("GET", "http://elsewhere.example"), (404,)),
    "authority": (head("CONNECT", "elsewhere.example:443"), (400, 404, 405)),
    "authority, to be fetched": (head("GET", "elsewhere.example:443"), (400, 404)),
    "asterisk": (head("OPTIONS", "*"), (400, 404, 405)),
    "asterisk, to be fetched": (head("GET", "*"), (400, 404)),
    "relative": (head("GET", "v2/"), (400, 404)),
    "two slashes": (head("GET", "//v2/"), (404,)),
    "an address behind two slashes": (head("GET", "//elsewhere.example/v2/"), (404,)),
    "dots": (head("GET", "/v2/../v2/_catalog"), (400, 404)),
    "encoded dots": (head("GET", "/v2/%2e%2e/v2/_catalog"), (400, 404)),
    "many dots": (head("GET", "/v2/" + "../" * 500 + "etc/passwd"), (400, 404)),
    "a NUL": (head("GET", "/v2/\x00"), (400,)),
    "an encoded NUL": (head("GET", "/v2/a%00b/tags/list"), (400,)),
    "UTF-8": (head("GET", "/v2/\xc3\xa9/tags/list"), (400,)),
    "encoded UTF-8": (head("GET", "/v2/%C3%A9/tags/list"), (400,)),
    "bytes that are no UTF-8": (head("GET", "/v2/%ff%fe/tags/list"), (400,)),
    "a surrogate": (head("GET", "/v2/%ED%A0%80/tags/list"), (400,)),
    "an encoded slash": (head("GET", f"/v2/{REPOSITORY.replace('/', '%2f')}/tags/list"), (400,)),
    "an encoded slash, in capitals": (head("GET", f"/v2/{REPOSITORY.replace('/', '%2F')}/tags/list"), (400,)),
    "an encoded percent sign": (head("GET", f"/v2/{REPOSITORY.replace('/', '%252f')}/tags/list"), (400,)),
    "a backslash": (head("GET", "/v2/seed\\one/tags/list"), (400,)),
    "encoded line ends": (head("GET", "/v2/a/manifests/x%0d%0aSet-Cookie:%20a=b"), (404,)),
    "a percent sign alone": (head("GET", "/v2/%/tags/list"), (400,)),
    "a fragment": (head("GET", "/v2/#x"), (200, 400)),
    "a question mark": (head("GET", "/v2/?"), (200,)),
    "brackets": (head("GET", "http://[::1/v2/"), (400,)),
    "brackets of nothing": (head("GET", "//[/v2/"), (400, 404)),
    "a name of 300 characters": (head("GET", f"/v2/{'a' * 300}/tags/list"), (400,)),
    "a name of 8,000 characters": (head("GET", f"/v2/{'a-' * 4000}/tags/list"), (400,)),
    "a name of 2,000 parts": (head("GET", f"/v2/{'a/' * 2000}tags/list"), (400,)),
    "a tag of 8,000 characters": (head("GET", f"/v2/a/manifests/{'a' * 8000}"), (404,)),
    "another room's path": (head("GET", "/v1/chunks/1"), (404,)),
}

PUSHES: dict[str, Case] = {
    "a blob with an encoding": (push("Content-Length: 3", "Content-Encoding: gzip"), (201,)),
    "a blob with unknown encodings": (push("Content-Length: 3", "Content-Encoding: x, y, z"), (201,)),
    "a blob in pieces with extensions": (chunks(b'1;a=b;c="d"\r\nr\r\n2;\r\naw\r\n0;e\r\nTrailer: x\r\n\r\n'), (201,)),
    "a blob behind an expectation": (push("Content-Length: 3", "Expect: 100-continue"), (201,)),
    "a blob and an upgrade": (push("Content-Length: 3", "Connection: Upgrade, close", "Upgrade: h2c"), (201,)),
    # A header of that name means nothing: a session is opened, as without a body, and what follows is no request.
    "chunked with an underscore": (push("Transfer_Encoding: chunked", body=b"raw\r\n\r\n"), (202,)),
    "a layer that is there": (
        head("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={sha256(LAYER)}", f"Content-Length: {len(LAYER)}")
        + LAYER,
        (201,),
    ),
}
