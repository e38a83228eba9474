from __future__ import annotations

import hashlib
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.wire.errors import TrustError
from edgekit.wire.signing import (
    PrivateKey,
    PublicKey,
    generate_key,
    load_private_key,
    load_public_key,
    parse_public_key,
)

# RFC 8032, section 7.1, test 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def write_key(path, data, mode=0o600):
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_the_published_test_vector():
    key = PrivateKey(SEED)
    assert key.public.raw == PUBLIC
    assert key.sign(b"\x72") == SIGNATURE
    assert key.public.verifies(b"\x72", SIGNATURE)


def test_the_id_is_of_what_openssl_exports(tmp_path):
    key = generate_key("dev").public
    pem = tmp_path / "pub.pem"
    pem.write_bytes(key.to_pem())
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", pem, "-outform", "der"],
        check=True,
        capture_output=True,
    ).stdout
    assert key.key_id == hashlib.sha256(der).hexdigest()[:8]
    assert key.label == f"dev-{key.key_id[:4]}"
    assert PublicKey(key.raw).label == key.key_id


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_flipped_bit_does_not_verify(data, bit):
    key = PrivateKey(SEED)
    signature = bytearray(key.sign(data))
    assert key.public.verifies(data, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not key.public.verifies(data, bytes(signature))
    assert not key.public.verifies(data + b"x", key.sign(data))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_does_not_verify(length):
    assert not PrivateKey(SEED).public.verifies(b"", b"\0" * length)


def test_keys_survive_their_files(tmp_path):
    key = generate_key()
    loaded = load_private_key(write_key(tmp_path / "dev.pem", key.to_pem()))
    assert loaded == key
    assert loaded.name == "dev"
    public = load_public_key(write_key(tmp_path / "dev.pub.pem", key.public.to_pem(), 0o644))
    assert public == key.public
    assert public.name == "dev"


def test_the_secret_is_not_in_the_repr():
    key = PrivateKey(SEED, "dev")
    assert "4ccd" not in repr(key)
    assert repr(SEED)[2:-1] not in repr(key)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666, 0o620])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    path = write_key(tmp_path / "dev.pem", generate_key().to_pem(), mode)
    with pytest.raises(TrustError, match="others can read") as caught:
        load_private_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


def openssl_key(tmp_path, *arguments):
    path = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", *arguments, "-out", path], check=True, capture_output=True
    )
    path.chmod(0o600)
    return path


def test_a_key_made_by_openssl_signs(tmp_path):
    key = load_private_key(openssl_key(tmp_path, "-algorithm", "ed25519"))
    assert key.public.verifies(b"x", key.sign(b"x"))


def test_an_encrypted_key_is_refused(tmp_path):
    path = openssl_key(tmp_path, "-algorithm", "ed25519", "-aes256", "-pass", "pass:x")
    with pytest.raises(TrustError, match="encrypted"):
        load_private_key(path)


def test_another_kind_of_key_is_refused(tmp_path):
    path = openssl_key(tmp_path, "-algorithm", "x25519")
    with pytest.raises(TrustError, match="not an Ed25519 key"):
        load_private_key(path)
    public = subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout"], check=True, capture_output=True
    ).stdout
    with pytest.raises(TrustError, match="not an Ed25519 key"):
        parse_public_key(public)


def test_a_private_key_is_no_public_key():
    with pytest.raises(TrustError, match="private key"):
        parse_public_key(generate_key().to_pem())


def test_what_is_no_key_file_is_refused(tmp_path):
    with pytest.raises(TrustError, match="no such key file"):
        load_private_key(tmp_path / "none.pem")
    with pytest.raises(TrustError, match="too large"):
        load_public_key(write_key(tmp_path / "large.pem", b"x" * 20_000))
    with pytest.raises(TrustError):
        load_public_key(tmp_path)
    os.mkfifo(tmp_path / "pipe.pem")
    with pytest.raises(TrustError, match="regular file"):
        load_private_key(tmp_path / "pipe.pem")


@given(st.binary(max_size=300))
def test_any_bytes_as_a_key_raise_nothing_else(data):
    with pytest.raises(TrustError):
        parse_public_key(data)


@given(st.binary(max_size=200))
def test_any_pem_body_raises_nothing_else(data):
    body = data.hex().encode()
    with pytest.raises(TrustError):
        parse_public_key(b"-----BEGIN PUBLIC KEY-----\n" + body + b"\n-----END PUBLIC KEY-----\n")
