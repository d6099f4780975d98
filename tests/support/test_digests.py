"""Digests and seeds: pinned, since files, caches and published numbers are named by them."""

import hashlib
import json

import pytest

from excise.support.digests import digest, file_digest, seed_of, short_digest

VALUE = {"b": [1, 2.5, None], "a": "chat \u00e0 part"}


def test_digests_are_of_sorted_json():
    escaped = json.dumps(VALUE, sort_keys=True).encode()
    plain = json.dumps(VALUE, sort_keys=True, ensure_ascii=False).encode()
    assert digest(VALUE) == hashlib.sha256(escaped).hexdigest()
    assert digest(VALUE, escape=False) == hashlib.sha256(plain).hexdigest() != digest(VALUE)
    assert short_digest(VALUE) == hashlib.blake2b(escaped, digest_size=16).hexdigest()
    assert short_digest(VALUE, size=12, escape=False) == hashlib.blake2b(plain, digest_size=12).hexdigest()


def test_the_order_of_keys_does_not_matter():
    assert digest(VALUE) == digest(dict(reversed(VALUE.items())))
    assert short_digest(VALUE) == short_digest(dict(reversed(VALUE.items())))


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError):
        digest({1, 2})


def test_a_file_of_several_blocks_has_the_digest_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_seeds_are_pinned():
    assert (
        seed_of("training", "a cat", 0)
        == int.from_bytes(hashlib.sha256(b"training\x00a cat\x000").digest()[:8], "big") >> 1
    )
    assert seed_of("canvas-grid", "a cat, neon style", 1) == 4685379437902853210
    assert 0 <= seed_of() < 2**63


def test_seeds_of_other_purposes_are_other_seeds():
    assert len({seed_of(p, "a cat", i) for p in ("training", "attack", "verify") for i in range(5)}) == 15
