import contextlib
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.echo import pattern
from tests.wire.raw import chunked
from wire.chunked import EXTENSION_BYTES_MAX, SIZE_LINE_BYTES_MAX, TRAILER_BYTES_MAX, BodyCut, ChunkedDecoder
from wire.errors import BadRequest


def decode(
    wire: bytes,
    *,
    buffered: int = 0,
    buffer_bytes: int = 1 << 20,
    send_bytes: int = 1 << 16,
) -> tuple[bytes, bytes]:
    """Payload of `wire`, and what stood behind the body. `buffered` bytes were read with the request's head."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)

    def send() -> None:
        with theirs, contextlib.suppress(OSError):
            for start in range(buffered, len(wire), send_bytes):
                theirs.sendall(wire[start : start + send_bytes])

    sender = threading.Thread(target=send)
    sender.start()
    try:
        decoder = ChunkedDecoder(ours, wire[:buffered])
        buffer = memoryview(bytearray(buffer_bytes))
        payload = bytearray()
        while count := decoder.readinto(buffer):
            payload += buffer[:count]
        assert decoder.ended
        rest = decoder.take_rest()
        while more := ours.recv(65536):
            rest += more
        return bytes(payload), rest
    finally:
        ours.close()
        sender.join(20)


def reference(wire: bytes) -> tuple[bytes, bytes]:
    """The plain reading of RFC 9112 section 7.1, for bodies that are well-formed."""
    payload, rest = b"", wire
    while True:
        line, rest = rest.split(b"\r\n", 1)
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        payload, rest = payload + rest[:size], rest[size + 2 :]
    while not rest.startswith(b"\r\n"):
        rest = rest.split(b"\r\n", 1)[1]
    return payload, rest[2:]


@pytest.mark.parametrize("size", [1, 100, 8191, 8192, 32768, 300_000, 1 << 20])
@pytest.mark.parametrize("buffer_bytes", [1000, 65_536, 1 << 22])
def test_pieces_of_one_size_come_out_as_they_went_in(size: int, buffer_bytes: int) -> None:
    payload = pattern(min(size * 64, 1 << 21) // size * size)
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    assert decode(chunked(*pieces), buffer_bytes=buffer_bytes) == (payload, b"")


def test_pieces_of_changing_sizes_come_out_as_they_went_in() -> None:
    # Sizes that make the guess about the next piece wrong in every way.
    sizes = [32768, 32768, 16384, 32768, 5, 32767, 32769, 32768, 9000, 100_000, 9000, 9000, 1, 65536, 65537] * 5
    payload = pattern(sum(sizes))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(payload[at : at + size])
        at += size
    for buffer_bytes in (32768, 50_000, 1 << 22):
        assert decode(chunked(*pieces) + b"GET /next", buffer_bytes=buffer_bytes) == (payload, b"GET /next")


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 15, 16, 255, 4096, 8192, 8193, 20_000, 32768]), max_size=12),
    repeat=st.integers(1, 4),
    buffered=st.integers(0, 9000),
    buffer_bytes=st.sampled_from([1, 7, 8192, 33_000, 1 << 20]),
    send_bytes=st.sampled_from([1, 3, 1000, 8200, 1 << 18]),
    extension=st.sampled_from([b"", b";a=b", b' ; q="x\xff"']),
    trailer=st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: b\r\nC:\r\n"]),
)
def test_any_cut_of_the_stream_gives_what_a_plain_reading_gives(
    *,
    sizes: list[int],
    repeat: int,
    buffered: int,
    buffer_bytes: int,
    send_bytes: int,
    extension: bytes,
    trailer: bytes,
) -> None:
    sizes = [size for size in sizes for _ in range(repeat)]
    if sum(sizes) / min(send_bytes, buffer_bytes) > 20_000:
        sizes = sizes[:1]
    payload = pattern(sum(sizes))
    wire, at = b"", 0
    for index, size in enumerate(sizes):
        marked = extension if index % 3 == 1 else b""
        wire += b"%x%b\r\n%b\r\n" % (size, marked, payload[at : at + size])
        at += size
    wire += b"0\r\n" + trailer + b"\r\n" + b"GET / HTTP/1.1"
    assert decode(wire, buffered=buffered, buffer_bytes=buffer_bytes, send_bytes=send_bytes) == reference(wire)


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b";a\r\nhello\r\n0\r\n\r\n",
        b"1234567890123456\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"0\r\nTrailer\r\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\n\n",
        b"5;" + b"x" * SIZE_LINE_BYTES_MAX + b"\r\nhello\r\n0\r\n\r\n",
        b"1" * (SIZE_LINE_BYTES_MAX + 10),
        b"0\r\n" + b"A: b\r\n" * (TRAILER_BYTES_MAX // 6 + 10) + b"\r\n",
        (b"1;" + b"x" * 1000 + b"\r\na\r\n") * (EXTENSION_BYTES_MAX // 1000 + 2) + b"0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("send_bytes", [1 << 16, 1])
def test_a_malformed_body_is_refused(wire: bytes, send_bytes: int) -> None:
    with pytest.raises(BadRequest, match="chunked body"):
        decode(wire, send_bytes=send_bytes)


def test_a_wrong_terminator_behind_guessed_pieces_is_refused() -> None:
    piece = b"8000\r\n" + bytes(32768) + b"\r\n"
    with pytest.raises(BadRequest):
        decode(piece * 10 + piece[:-2] + b"XY" + piece * 3 + b"0\r\n\r\n", buffer_bytes=1 << 22)


@pytest.mark.parametrize("kept", [0, 3, 6, 100, 32774, 32775, 32776, 40_000, 3 * 32776, 3 * 32776 + 1, 3 * 32776 + 4])
def test_a_cut_body_gives_its_payload_and_then_says_that_it_was_cut(kept: int) -> None:
    payload = pattern(3 * 32768)
    wire = chunked(*(payload[at : at + 32768] for at in range(0, len(payload), 32768)))
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(wire[:kept])
        theirs.close()
        decoder = ChunkedDecoder(ours, b"")
        buffer = memoryview(bytearray(1 << 20))
        got = bytearray()

        def take_all() -> None:
            while count := decoder.readinto(buffer):
                got.extend(buffer[:count])

        with pytest.raises(BodyCut):
            take_all()
    whole_pieces, left = divmod(kept, 32776)
    expected = whole_pieces * 32768 + min(max(left - 6, 0), 32768) if kept < 3 * 32776 else 3 * 32768
    assert bytes(got) == payload[:expected]


def test_payload_before_a_fault_is_given_before_the_fault() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"5\r\nhello\r\nzz\r\n")
        decoder = ChunkedDecoder(ours, b"")
        buffer = memoryview(bytearray(100))
        assert decoder.readinto(buffer) == 5
        with pytest.raises(BadRequest):
            decoder.readinto(buffer)
