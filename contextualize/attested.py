"""What an attestation must say for a requirement to hold. Pure, quick to import, the same for every user.

    image=NAME                 this image             image=NAME@>=20260301.1    at least that version
    layer=VO/NAME              the experiment's layer layer=site/SITE/NAME@4     exactly that version
    site=SITE                  a layer of that site   site=SITE/NAME@>=4         this one of it
    farm=NAME                  it is for that farm    without=WORD               the context did not switch WORD on

Several are joined by commas, and all of them must hold. Versions compare as dotted numbers: 1.2 is below 1.10.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from contextualize.document import NAME, parts
from contextualize.errors import Refused

LIMIT = 4096
"""The most characters of all requirements together."""
NAMES = {
    "image": NAME,
    "layer": rf"(?:(?:site|experiment)/{NAME}|(?!(?:site|experiment)/){NAME})/{NAME}",
    "site": rf"{NAME}(?:/{NAME})?",
    "farm": NAME,
    "without": r"[a-z][a-z-]{0,40}",
}
UNVERSIONED = ("farm", "without")


class Requirement(NamedTuple):
    """One of them. Without `version` every version will do; with `at_least` every one from there on."""

    text: str
    key: str
    name: str
    version: Optional[str]
    at_least: bool


def parse(text: str) -> List[Requirement]:
    """Reads requirements; Refused says which of them is none."""
    if len(text) > LIMIT:
        raise Refused(f"the requirements have more than {LIMIT} characters")
    return [_requirement(one.strip()) for one in text.split(",")]


def _requirement(text: str) -> Requirement:
    key, equals, value = text.partition("=")
    if not equals or key not in NAMES:
        raise Refused(f"{text!r:.80} is not a requirement: write one of {', '.join(f'{k}=…' for k in NAMES)}")
    name, at, version = value.partition("@")
    if not re.fullmatch(NAMES[key], name):
        raise Refused(f"{text!r:.80}: {name!r:.60} is not a name for {key}=")
    if at and (key in UNVERSIONED or (key == "site" and "/" not in name)):
        raise Refused(f"{text!r:.80}: {key}={name:.60} has no version")
    at_least = version.startswith(">=")
    version = version[2:] if at_least else version
    if at:
        parts(version)
    if key == "layer" and name.count("/") == 1:
        name = f"experiment/{name}"
    return Requirement(text, key, name, version if at else None, at_least)


def faults(attestation: Mapping[str, Any], requirements: List[Requirement]) -> Iterator[Tuple[str, str]]:
    """Each requirement that does not hold, with what the attestation says instead."""
    for requirement in requirements:
        fault = _fault(attestation, requirement)
        if fault is not None:
            yield requirement.text, fault


def _fault(attestation: Mapping[str, Any], wanted: Requirement) -> Optional[str]:
    if wanted.key == "farm":
        farm = _object(attestation.get("farm")).get("name")
        return None if farm == wanted.name else f"the farm is {farm}" if farm else "there is no farm"
    if wanted.key == "without":
        words = attestation.get("switched_on")
        if not isinstance(words, list):
            return "the attestation does not say what was switched on"
        return f"{wanted.name} is switched on" if wanted.name in words else None
    if wanted.key == "image":
        image = _object(attestation.get("image"))
        return _differs(wanted, [(str(image.get("name")), str(image.get("version")))])
    return _differs(wanted, layers(attestation))


def layers(attestation: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """The layers' names and versions."""
    found = attestation.get("layers")
    items = [_object(item) for item in found] if isinstance(found, list) else []
    return [(str(item.get("name")), str(item.get("version"))) for item in items]


def _differs(wanted: Requirement, found: List[Tuple[str, str]]) -> Optional[str]:
    """Why none of these is what is wanted, or None where one is."""
    name = f"site/{wanted.name}" if wanted.key == "site" else wanted.name
    same = [v for n, v in found if n == name or (wanted.key == "site" and n.startswith(f"{name}/"))]
    if not same:
        return f"the image is {found[0][0]}" if wanted.key == "image" else f"there is no layer {name}"
    if wanted.version is None:
        return None
    limit = parts(wanted.version)
    if any(parts(v) >= limit if wanted.at_least else parts(v) == limit for v in same):
        return None
    return f"the version is {same[0]}"


def _object(value: object) -> Dict[str, Any]:
    return value if isinstance(value, dict) else {}
