"""A password is kept as a hash that nothing but the password fits."""

from __future__ import annotations

import secrets

import pytest

from edgekit.fleet.web.passwords import MAX_LENGTH, MIN_LENGTH, check_password, hash_password
from edgekit.wire.errors import UsageError

GOOD = "correct horse battery"


def test_only_the_same_password_fits():
    kept = hash_password(GOOD, secrets.token_bytes)
    assert check_password(GOOD, kept)
    assert not check_password(GOOD + " ", kept)
    assert GOOD not in kept
    assert hash_password(GOOD, secrets.token_bytes) != kept


@pytest.mark.parametrize("kept", ["", "scrypt", "scrypt$15$8$3$!$!", "plain$" + GOOD, "$$$$$"])
def test_what_is_no_hash_fits_nothing(kept):
    assert not check_password("", kept)
    assert not check_password(GOOD, kept)


@pytest.mark.parametrize("length", [0, MIN_LENGTH - 1, MAX_LENGTH + 1])
def test_too_short_or_too_long_is_refused(length):
    with pytest.raises(UsageError, match="characters"):
        hash_password("x" * length, secrets.token_bytes)
