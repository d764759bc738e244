"""Digests against hashlib, and states that survive."""

import hashlib
import os
import random

import pytest

from native.digest import Digest

ALGORITHMS = ["sha256", "sha512"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_digest_equals_hashlib_however_the_message_is_cut_and_wherever_it_is_resumed(algorithm: str) -> None:
    chance = random.Random(algorithm)
    for length in [0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 1000, 300_000]:
        message = os.urandom(length)
        digest = Digest(algorithm)
        done = 0
        while done < length:
            piece = chance.randint(1, max(1, length // 3))
            digest.update(memoryview(message)[done : done + piece])
            done = min(length, done + piece)
            assert digest.length == done
            digest = Digest.import_state(digest.export_state())
            assert digest.hexdigest() == hashlib.new(algorithm, message[:done]).hexdigest()
        assert digest.algorithm == algorithm
        assert digest.hexdigest() == hashlib.new(algorithm, message).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_copy_goes_its_own_way(algorithm: str) -> None:
    first = Digest(algorithm)
    first.update(b"common")
    second = first.copy()
    second.update(b" and more")
    assert first.hexdigest() == hashlib.new(algorithm, b"common").hexdigest()
    assert second.hexdigest() == hashlib.new(algorithm, b"common and more").hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_state_with_any_flipped_bit_is_refused(algorithm: str) -> None:
    digest = Digest(algorithm)
    digest.update(b"some message of no particular length")
    state = digest.export_state()
    for bit in range(8 * len(state)):
        damaged = bytearray(state)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="damaged"):
            Digest.import_state(bytes(damaged))
    for wrong in (b"", state[:-1], state + b"\0"):
        with pytest.raises(ValueError, match="damaged"):
            Digest.import_state(wrong)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="md5"):
        Digest("md5")


def test_the_length_in_bits_carries_into_the_upper_word() -> None:
    # 600 MiB are more than 2**32 bits: the point where SHA-256 contexts use their second counter.
    block = bytes(1 << 20)
    digest = Digest("sha256")
    reference = hashlib.sha256()
    for _ in range(600):
        digest.update(block)
        reference.update(block)
    resumed = Digest.import_state(digest.export_state())
    resumed.update(b"end")
    reference.update(b"end")
    assert resumed.hexdigest() == reference.hexdigest()
