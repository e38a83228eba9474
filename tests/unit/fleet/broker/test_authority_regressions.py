"""Certificates are made anew wherever those that are there would let no device in."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509

from edgekit.fleet.broker.authority import CA_FILE, SERVER_FILE, SERVER_KEY_FILE, certify

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_new_authority_gets_a_new_server_certificate(tmp_path):
    assert certify(tmp_path, ["localhost"], NOW)
    (tmp_path / CA_FILE).unlink()
    (tmp_path / "ca.key.pem").unlink()
    assert certify(tmp_path, ["localhost"], NOW)
    certificate(tmp_path / SERVER_FILE).verify_directly_issued_by(certificate(tmp_path / CA_FILE))
    assert not certify(tmp_path, ["localhost"], NOW)


@pytest.mark.parametrize("key", [b"", b"no key\n", None])
def test_a_certificate_whose_key_is_not_there_is_made_anew(tmp_path, key):
    certify(tmp_path, ["localhost"], NOW)
    other = tmp_path / "other"
    other.mkdir()
    certify(other, ["localhost"], NOW)
    # What a death between the two files leaves behind.
    data = (other / SERVER_KEY_FILE).read_bytes() if key is None else key
    (tmp_path / SERVER_KEY_FILE).write_bytes(data)
    assert certify(tmp_path, ["localhost"], NOW)
    assert not certify(tmp_path, ["localhost"], NOW)


def test_a_fleet_that_runs_for_a_year_does_not_lock_its_devices_out(tmp_path):
    certify(tmp_path, ["localhost"], NOW)
    year = dt.timedelta(days=365)
    for days in range(0, 1000, 50):
        start = NOW + dt.timedelta(days=days)
        certify(tmp_path, ["localhost"], start)
        assert certificate(tmp_path / SERVER_FILE).not_valid_after_utc > start + year
