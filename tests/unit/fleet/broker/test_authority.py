"""The fleet's authority: devices keep what they were given; the broker's certificate is renewed."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import stat
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.broker.authority import certify, public_name, server_names
from edgekit.fleet.settings import Settings
from edgekit.wire.errors import ConfigError

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
NAMES = ["10.1.2.3", "fleet.example"]
DAY = dt.timedelta(days=1)


def read(folder: Path, name: str = "server.pem") -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def test_the_first_call_makes_all_and_the_next_leaves_it(tmp_path):
    assert certify(tmp_path, NAMES, NOW)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"ca.pem", "ca.key.pem", "server.pem", "server.key.pem"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    assert not certify(tmp_path, NAMES[::-1], NOW + 300 * DAY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    read(tmp_path).verify_directly_issued_by(read(tmp_path, "ca.pem"))


def test_a_certificate_is_for_its_names_and_signs_nothing(tmp_path):
    certify(tmp_path, NAMES, NOW)
    server = read(tmp_path)
    extensions = server.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fleet.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.1.2.3")]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert server.not_valid_before_utc < NOW < server.not_valid_after_utc - 300 * DAY
    own = read(tmp_path, "ca.pem").extensions.get_extension_for_class(x509.BasicConstraints)
    assert (own.value.ca, own.value.path_length, own.critical) == (True, 0, True)


@pytest.mark.parametrize("why", ["soon over", "other names", "damaged", "gone", "of another"])
def test_a_certificate_is_made_anew_and_devices_still_trust_it(tmp_path, why):
    certify(tmp_path, NAMES, NOW)
    authority, before = (tmp_path / "ca.pem").read_bytes(), read(tmp_path)
    names, now, path = NAMES, NOW, tmp_path / "server.pem"
    if why == "soon over":
        now = before.not_valid_after_utc - DAY
    elif why == "other names":
        names = ["10.1.2.4"]
    elif why == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    elif why == "gone":
        path.unlink()
    else:
        (tmp_path / "other").mkdir()
        certify(tmp_path / "other", NAMES, NOW)
        path.write_bytes((tmp_path / "other" / "server.pem").read_bytes())
    assert certify(tmp_path, names, now)
    assert (tmp_path / "ca.pem").read_bytes() == authority
    after = read(tmp_path)
    after.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    assert after.serial_number != before.serial_number
    assert not certify(tmp_path, names, now)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key.pem"])
def test_an_authority_that_is_damaged_is_not_replaced_unasked(tmp_path, name):
    certify(tmp_path, NAMES, NOW)
    (tmp_path / name).write_text("no PEM")
    with pytest.raises(ConfigError, match="the broker's authority cannot be read") as raised:
        certify(tmp_path, NAMES, NOW)
    assert "devices then need the new ca.pem" in str(raised.value.hint)
    assert (tmp_path / name).read_text() == "no PEM"


@given(st.ip_addresses().map(str), st.sampled_from(["", "fleet.example", "10.0.0.9"]))
def test_devices_are_told_a_name_that_stands_in_the_certificate(listen, name):
    settings = Settings(broker_listen=listen, broker_name=name)
    told = public_name(settings)
    assert told in server_names(settings)
    assert told not in {"0.0.0.0", "::", ""}  # noqa: S104
    if name:
        assert told == name


def test_who_listens_everywhere_is_called_by_the_machines_name():
    for any_ in ("0.0.0.0", "::"):  # noqa: S104
        assert public_name(Settings(broker_listen=any_)) == socket.gethostname()
