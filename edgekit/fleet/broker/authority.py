"""The fleet's own certificate authority: what devices check the broker's certificate against."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.home import write_private
from edgekit.wire.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from edgekit.fleet.settings import Settings

CA_FILE, SERVER_FILE, SERVER_KEY_FILE = "ca.pem", "server.pem", "server.key.pem"
_CA_KEY_FILE = "ca.key.pem"
_CA_LIFETIME = dt.timedelta(days=20 * 365)
# It is looked at when the broker starts alone: what is kept then must outlast a long run.
_SERVER_LIFETIME = dt.timedelta(days=3 * 365)
_RENEW_BEFORE = dt.timedelta(days=2 * 365)
_SLACK = dt.timedelta(days=1)  # a device's clock may be behind


def public_name(settings: Settings) -> str:
    """Return the host name or address by which devices connect over TLS."""
    if settings.broker_name:
        return settings.broker_name
    is_any = ipaddress.ip_address(settings.broker_listen).is_unspecified
    return socket.gethostname() if is_any else settings.broker_listen


def server_names(settings: Settings) -> list[str]:
    """Return the names that stand in the broker's certificate."""
    return sorted({public_name(settings), socket.gethostname(), "localhost", "127.0.0.1"})


def certify(folder: Path, names: Sequence[str], now: dt.datetime) -> bool:
    """Have an authority and a server's certificate; made anew where they end soon.

    Args:
        folder: Of the files.
        names: Host names and addresses that the certificate is for.
        now: The time.

    Returns:
        Whether the server's certificate is a new one.

    Raises:
        ConfigError: A file cannot be read or written.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    ca, ca_key = _authority(folder, now)
    try:
        found = x509.load_pem_x509_certificate((folder / SERVER_FILE).read_bytes())
        key = load_pem_private_key((folder / SERVER_KEY_FILE).read_bytes(), None)
        lasts = found.not_valid_after_utc - now > _RENEW_BEFORE
        is_pair = key.public_key() == found.public_key()
        if lasts and is_pair and _names(found) == set(names):
            found.verify_directly_issued_by(ca)
            return False
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        pass  # none yet, or not one of this authority: it gets a new one
    _issue(folder, names, ca, ca_key, now)
    return True


def _authority(folder: Path, now: dt.datetime) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not (folder / _CA_KEY_FILE).exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edgekit fleet")])
        builder = _builder(name, name, key, now, _CA_LIFETIME).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        made = builder.add_extension(_usage(is_ca=True), critical=True).sign(key, hashes.SHA256())
        write_private(folder / CA_FILE, _pem(made))
        write_private(folder / _CA_KEY_FILE, _pem_key(key))
    try:
        found = load_pem_private_key((folder / _CA_KEY_FILE).read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / CA_FILE).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "the broker's authority cannot be read",
            hint=f"delete {CA_FILE} and {_CA_KEY_FILE}: devices then need the new {CA_FILE}",
            where=str(folder),
        ) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError("not the key of the authority", where=str(folder / _CA_KEY_FILE))
    return certificate, found


def _issue(
    folder: Path,
    names: Sequence[str],
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    now: dt.datetime,
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edgekit broker")])
    server = [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        _builder(subject, ca.subject, key, now, _SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(server), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    write_private(folder / SERVER_KEY_FILE, _pem_key(key))
    write_private(folder / SERVER_FILE, _pem(builder.sign(ca_key, hashes.SHA256())))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    now: dt.datetime,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> set[str]:
    from cryptography import x509

    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pem_key(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
