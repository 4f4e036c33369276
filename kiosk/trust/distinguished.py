"""X.509 names as grids write them: `/DC=ch/DC=cern/OU=Users/CN=Jane Doe`, as OpenSSL's one-line form has them."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.x509.oid import NameOID

from kiosk.errors import VerificationError

_KEYS = {
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SURNAME: "SN",
    NameOID.TITLE: "title",
    NameOID.STREET_ADDRESS: "street",
    NameOID.POSTAL_CODE: "postalCode",
}
_LIKE_A_KEY = re.compile(r"[/+][A-Za-z0-9.]+=")


def name_of(name: x509.Name) -> str:
    """A name in one line. VerificationError where it could be read as another: a value with `/CN=` in it."""
    parts: list[str] = []
    for rdn in name.rdns:
        for number, attribute in enumerate(rdn):
            value = attribute.value if isinstance(attribute.value, str) else attribute.value.decode("latin-1")
            if _LIKE_A_KEY.search(value):
                raise VerificationError(f"a certificate's name can be read in two ways: {value[:100]!r}")
            shown = "".join(chr(b) if 0x20 <= b <= 0x7E else f"\\x{b:02X}" for b in value.encode())
            key = _KEYS.get(attribute.oid, attribute.oid.dotted_string)
            parts.append(f"{'+' if number else '/'}{key}={shown}")
    return "".join(parts)
