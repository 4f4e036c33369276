"""A stand-in for vmcatcher, run by the system's Python with the real M2Crypto that vmcatcher stands on.

    python3 vmcatcher.py AUTHORITIES LIST IDENTIFIER [VERSION_BEFORE]

vmcatcher itself is written for Python 2 and can't be run any more. This one makes the checks that its sources make of
a subscribed list, in their order, and ends with vmcatcher's own error numbers: 11 the signature, 37 and 38 the
document, 12 the endorser, 31 the list's identifier, 33 and 34 its dates, 17 its version; beside these 36, an image
that lacks a field, which vmcatcher leaves out. Prints what it believed as JSON.
"""

import json
import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from M2Crypto import BIO, SMIME, X509

DATE = "%Y-%m-%dT%H:%M:%SZ"
LIST = {"dc:date:created", "dc:date:expires", "dc:identifier", "dc:description", "dc:title", "dc:source"}
LIST |= {"hv:version", "hv:uri", "hv:endorser", "hv:images"}
ENDORSER = {"hv:ca", "hv:dn", "hv:email", "dc:creator"}
IMAGE = {"dc:title", "dc:description", "hv:size", "sl:checksum:sha512", "sl:arch", "hv:uri", "dc:identifier"}
IMAGE |= {"sl:os", "sl:osversion", "sl:comments", "hv:hypervisor", "hv:version"}


class Refused(Exception):
    def __init__(self, number, why):
        super().__init__(why)
        self.number = number


def verified(authorities, message):
    """The content, and the signer's and its authority's names as OpenSSL writes them in one line."""
    try:
        signature, data = SMIME.smime_load_pkcs7_bio(BIO.MemoryBuffer(message))
        content = data.read()
        signers = signature.get0_signers(X509.X509_Stack())
        if len(signers) != 1:
            raise Refused(11, "not one signer")
        store, stack = X509.X509_Store(), X509.X509_Stack()
        for path in sorted(Path(authorities).glob("*.pem")):
            certificate = X509.load_cert(str(path))
            if certificate.check_ca():
                store.add_cert(certificate)
                stack.push(certificate)
        context = SMIME.SMIME()
        context.set_x509_stack(stack)
        context.set_x509_store(store)
        context.verify(signature, BIO.MemoryBuffer(bytes(content)))
    except (SMIME.SMIME_Error, SMIME.PKCS7_Error, BIO.BIOError, AttributeError) as e:
        raise Refused(11, str(e)) from None
    signer = next(iter(signers))
    return bytes(content), str(signer.get_subject()), str(signer.get_issuer())


def decoded(content):
    """The list, where it has every field that it must have, none of them empty."""
    try:
        found = json.loads(content)["hv:imagelist"]
    except (ValueError, KeyError, TypeError):
        raise Refused(37, "not JSON of an image list") from None
    endorser = found.get("hv:endorser", {}).get("hv:x509", {})
    if not set(found) >= LIST or not set(endorser) >= ENDORSER:
        raise Refused(38, "a field is missing")
    if any(found[k] in (None, "") for k in LIST) or any(endorser[k] in (None, "") for k in ENDORSER):
        raise Refused(38, "a field is empty")
    for image in found["hv:images"]:
        image = image.get("hv:image", {})
        if not set(image) >= IMAGE or any(image[k] in (None, "") for k in IMAGE):
            raise Refused(36, "a field of an image is missing or empty")
        if not isinstance(image["hv:size"], int):
            raise Refused(36, "an image's size is not a number")
    return found, endorser


def order(version):
    """Numbers are compared as numbers, and are above words."""
    return [(1, int(w), "") if w.isdigit() else (0, 0, w) for w in re.split(r"[-,./]", version)]


def check(authorities, message, identifier, before=None):
    content, signer, authority = verified(authorities, message)
    found, endorser = decoded(content)
    if endorser["hv:dn"] != signer or endorser["hv:ca"] != authority:
        raise Refused(12, f"signed by {signer} of {authority}")
    if found["dc:identifier"] != identifier:
        raise Refused(31, "another list")
    try:
        created, expires = (
            datetime(*time.strptime(found[k], DATE)[:6], tzinfo=timezone.utc)
            for k in ("dc:date:created", "dc:date:expires")
        )
    except ValueError:
        raise Refused(38, "a date of another form") from None
    now = datetime.now(timezone.utc)
    if now < created:
        raise Refused(33, "made in the future")
    if now > expires:
        raise Refused(34, "expired")
    if before is not None and order(found["hv:version"]) < order(before):
        raise Refused(17, "an older version")
    return found


def main():
    try:
        print(json.dumps(check(sys.argv[1], Path(sys.argv[2]).read_bytes(), *sys.argv[3:])))
    except Refused as e:
        print(e, file=sys.stderr)
        sys.exit(e.number)


if __name__ == "__main__":
    main()
