"""The order to a device: which bundle, until when. Short-lived, and signed apart from the bundle.

A bundle's signature says who built it; this one says who wants it on a device, now (Uptane splits
image and director in the same way). Both are Ed25519 over exact bytes. The signed object names its
schema, so that no signature over an order is one over a manifest. The envelope is canonical JSON::

    {"key_id": "3f9a01c2", "signature": "<128 hex digits>", "signed": {"schema": …, …}}
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.wire.canonical import Json, canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.signing import SIGNATURE_BYTES, PrivateKey, PublicKey
from edgekit.wire.storedzip import MAX_ARCHIVE_BYTES
from edgekit.wire.strict import MAX_INTEGER, Fields, parse_object, require_canonical

SCHEMA = "edgekit.desired/1"
MAX_ORDER_BYTES = 16 * 1024
MAX_URL = 2000

_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+/[!-~]*", re.ASCII)
_ORDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)  # as in a manifest
_DEVICE = re.compile(r"[a-z0-9._-]{1,64}/[a-z0-9._-]{1,64}", re.ASCII)
_SIGNATURE = re.compile(rf"[0-9a-f]{{{2 * SIGNATURE_BYTES}}}", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True)
class Desired:
    """One order.

    Attributes:
        bundle_sha256: Digest of the whole bundle file.
        url: Where it can be had; the digest decides, not the place.
        size_bytes: Its exact size, so that a download can be stopped.
        serial: The bundle's serial; a device refuses a lower one than it runs.
        order_id: Names the order in the device's answers.
        expires: Unix time in seconds from which on the order does not count.
        model: The slot on the device; the bundle must be of this model.
        device: ``fleet/device`` that it is meant for; None where it is meant for any.
    """

    bundle_sha256: str
    url: str
    size_bytes: int
    serial: int
    order_id: str
    expires: int
    model: str
    device: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the object that gets signed."""
        values: dict[str, Json] = {
            name: value for name, value in vars(self).items() if value is not None
        }
        return {"schema": SCHEMA, **values}


def sign_desired(order: Desired, key: PrivateKey) -> bytes:
    """Return the envelope of an order, ready to be published.

    Args:
        order: The order.
        key: The fleet's key.

    Raises:
        TrustError: A device would refuse to read the order.
    """
    signed = order.to_json()
    data = canonical_json(signed)
    _parse(Fields(dict(signed), "order"))
    return canonical_json(
        {"key_id": key.key_id, "signature": key.sign(data).hex(), "signed": signed}
    )


def open_desired(
    data: bytes, keys: Iterable[PublicKey], *, now_s: float, device: str | None = None
) -> Desired:
    """Check an order that came over the network; refuse it whole on any mismatch.

    Args:
        data: The envelope.
        keys: The keys that this device trusts for orders.
        now_s: Unix time in seconds.
        device: ``fleet/device`` of this device; None reads an order for any.

    Raises:
        TrustError: Not an order, not signed by one of the keys, expired, or for another device.
    """
    where = "desired"
    document = parse_object(data, where, most_bytes=MAX_ORDER_BYTES)
    require_canonical(data, document, where)
    envelope = Fields(document, where)
    key_id = envelope.text("key_id", pattern=_KEY_ID)
    signature = bytes.fromhex(envelope.text("signature", pattern=_SIGNATURE))
    signed = envelope.mapping("signed")
    envelope.close()
    # The id finds keys; the whole key decides.
    candidates = [key for key in keys if key.key_id == key_id]
    if not candidates:
        raise TrustError(f"signed by the key {key_id}, which is not trusted here", where=where)
    if not any(key.verifies(canonical_json(signed), signature) for key in candidates):
        raise TrustError("the signature does not hold", where=where)
    order = _parse(Fields(signed, where))
    if now_s >= order.expires:
        raise TrustError("the order has expired", hint="the fleet sends a new one", where=where)
    if device is not None and order.device not in {None, device}:
        raise TrustError(f"the order is for {order.device}", where=where)
    return order


def _parse(fields: Fields) -> Desired:
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise TrustError(
            f"{schema[:40]!r} where {SCHEMA} is expected",
            hint="update edgekit on the device",
            where=fields.name,
        )
    order = Desired(
        bundle_sha256=fields.sha256("bundle_sha256"),
        url=fields.text("url", most=MAX_URL, pattern=_URL),
        size_bytes=fields.integer("size_bytes", 1, MAX_ARCHIVE_BYTES),
        serial=fields.integer("serial"),
        order_id=fields.text("order_id", pattern=_ORDER_ID),
        expires=fields.integer("expires", 0, MAX_INTEGER),
        model=fields.text("model", pattern=_MODEL),
        device=fields.text("device", pattern=_DEVICE) if fields.has("device") else None,
    )
    fields.close()
    return order
