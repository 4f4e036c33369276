"""Documents from outside, read strictly: every field has a type, a pattern and a bound, or it is refused.

Covers the image's own identity and policy; `context` and `manifest` read the other documents with the same
means. JSON is read with duplicate keys, NaN, and deep nesting refused; a document that is
read holds nothing that was not checked.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Dict, List, NamedTuple, NoReturn, Tuple

from contextualize.errors import Refused

LIMIT = 1 << 20
DEPTH = 12
NAME = r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?"
VERSION = r"(?:0|[1-9][0-9]{0,13})(?:\.(?:0|[1-9][0-9]{0,8})){0,3}"
DIGEST = r"sha256:[0-9a-f]{64}"
GUEST_PATH = r"/[^\x00-\x1f\x7f]{0,400}"
FARM_KIND = r"[a-z]{1,20}"
SETTING = r"[a-z][a-z0-9_]{0,40}"
SETTING_VALUE = r"[^\x00-\x1f\x7f]{0,2000}"
"""A farm's driver, and its settings, wherever they stand."""
SWITCHES = ("hooks", "user-data", "root-login", "farm")
"""What a site layer can allow a context to do to the machine (see contextualize.switches)."""
EXPERIMENT_IDS = (50000, 59999)
"""The numbers of experiments' users and groups, where an image's policy has no others."""


def stamp(time: datetime) -> str:
    """A time in UTC as documents have it: ISO 8601, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def parts(version: str) -> Tuple[int, ...]:
    """A version as numbers, which compare as versions do: 1.2 is below 1.10. Refused when it is none."""
    if not re.fullmatch(VERSION, version):
        raise Refused(f"{version!r:.60} is not a version: write a dotted number such as 20260301.1")
    return tuple(int(part) for part in version.split("."))


class Fields:
    """The fields of one JSON object. Each must be taken once; `end` refuses what nobody took."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise Refused(f"{where}: not a JSON object")
        self._left: Dict[str, Any] = dict(value)
        self.where = where

    def fault(self, key: str, what: str) -> NoReturn:
        """Refuses the document because of one of its keys."""
        raise Refused(f"{self.where}: {key}: {what}")

    def _take(self, key: str) -> Any:
        if key not in self._left:
            self.fault(key, "missing")
        return self._left.pop(key)

    def has(self, key: str) -> bool:
        """Whether a key is there that was not taken yet."""
        return key in self._left

    def text(self, key: str, pattern: str) -> str:
        """A string that matches `pattern` as a whole."""
        value = self._take(key)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            self.fault(key, f"{value!r:.80} is not valid")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fault(key, f"{value!r:.80} is not a whole number from {low} to {high}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """True or false; `default` where it is not there."""
        value = self._take(key) if self.has(key) else default
        if not isinstance(value, bool):
            self.fault(key, "not true or false")
        return value

    def fields(self, key: str) -> Fields:
        """An object inside this one."""
        return Fields(self._take(key), f"{self.where}: {key}")

    def items(self, key: str, most: int) -> List[Any]:
        """A list of at most `most` values; empty where it is not there."""
        value = self._take(key) if self.has(key) else []
        if not isinstance(value, list) or len(value) > most:
            self.fault(key, f"not a list of at most {most}")
        return value

    def texts(self, key: str, pattern: str, most: int) -> Tuple[str, ...]:
        """A list of strings that match `pattern`."""
        values = self.items(key, most)
        for value in values:
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                self.fault(key, f"{value!r:.80} is not valid")
        return tuple(values)

    def pairs(self, key: str, name: str, value: str, most: int) -> Dict[str, str]:
        """An object from strings to strings, both of a pattern; empty where it is not there."""
        found = self._take(key) if self.has(key) else {}
        if not isinstance(found, dict) or len(found) > most:
            self.fault(key, f"not an object of at most {most}")
        for k, v in found.items():
            if not re.fullmatch(name, k):
                self.fault(key, f"the name {k!r:.80} is not valid")
            if not isinstance(v, str) or not re.fullmatch(value, v):
                self.fault(f"{key}.{k}", f"{v!r:.80} is not valid")
        return found

    def secrets(self, key: str, name: str, most: int) -> Dict[str, str]:
        """An object from names of a pattern to strings, which no error shows; empty where it is not there."""
        found = self._take(key) if self.has(key) else {}
        if not isinstance(found, dict) or len(found) > most:
            self.fault(key, f"not an object of at most {most}")
        for k, v in found.items():
            if not re.fullmatch(name, k):
                self.fault(key, "a name in it is not valid")
            if not isinstance(v, str):
                self.fault(f"{key}.{k}", "is not a string")
        return found

    def names(self, pattern: str, most: int) -> Tuple[str, ...]:
        """The keys that are left, at most `most`, all of a pattern: for an object whose keys are names."""
        if len(self._left) > most:
            raise Refused(f"{self.where}: more than {most} names")
        for name in self._left:
            if not re.fullmatch(pattern, name):
                raise Refused(f"{self.where}: the name {name!r:.80} is not valid")
        return tuple(self._left)

    def schema(self, expected: str) -> None:
        """Refuses a document of another schema."""
        value = self._take("schema")
        if value != expected:
            self.fault("schema", f"is {value!r:.60}, not {expected}")

    def end(self) -> None:
        """Refuses keys that nobody asked for: what can't be honoured must not be passed over."""
        if self._left:
            self.fault(repr(min(self._left))[:60], "unknown key")


def read(data: bytes, where: str, limit: int = LIMIT) -> Fields:
    """Reads a JSON object of at most `limit` bytes."""
    if len(data) > limit:
        raise Refused(f"{where}: larger than {limit} bytes")

    def unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused(f"{where}: a key stands twice in one object")
        return found

    def constant(name: str) -> NoReturn:
        raise Refused(f"{where}: {name} is not JSON")

    try:
        text = data.decode("utf-8")
        if _depth(text) > DEPTH:
            raise Refused(f"{where}: nested more than {DEPTH} deep")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as e:
        raise Refused(f"{where}: not valid JSON: {e!s:.100}") from None
    return Fields(value, where)


TOKEN = re.compile(r'[][{}]|"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
"""A bracket, or a whole string. One that does not end goes up to the end of the text, so that nothing is looked at
twice: the time grows with the text's size and no faster."""


def _depth(text: str) -> int:
    """How deep the brackets are nested that do not stand in a string. Up to where a text is valid JSON, a string ends
    here where it ends for the parser."""
    deepest = depth = 0
    for found in TOKEN.finditer(text):
        if found[0][0] == '"':
            continue
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


LAYER_NAME = rf"(?:site|experiment)/{NAME}/{NAME}"


class LayerName(NamedTuple):
    """A layer's name. Prefix, role and target follow from it alone, whatever its manifest says."""

    kind: str
    owner: str
    name: str

    @classmethod
    def parse(cls, text: str) -> LayerName:
        """Reads KIND/OWNER/NAME; the text must match LAYER_NAME."""
        if not re.fullmatch(LAYER_NAME, text):
            raise Refused(f"{text!r:.80} is not the name of a layer")
        return cls(*text.split("/"))

    def __str__(self) -> str:
        return f"{self.kind}/{self.owner}/{self.name}"

    @property
    def prefix(self) -> str:
        """The one folder that the layer may fill."""
        return "/opt/site" if self.kind == "site" else f"/opt/experiment/{self.owner}"

    @property
    def role(self) -> str:
        """The delegated role whose key must have signed it."""
        return f"{self.kind}-{self.owner}"

    def target(self, version: str) -> str:
        """Where a version's manifest stands in the repository."""
        return f"layers/{self}/{version}.json"


class Identity(NamedTuple):
    """Which image this is, as written into it when it was built."""

    name: str
    version: str


def identity(data: bytes) -> Identity:
    """Reads /usr/lib/kiosk/image.json."""
    f = read(data, "image.json")
    f.schema("kiosk.image-identity/1")
    found = Identity(f.text("name", NAME), f.text("version", VERSION))
    f.end()
    return found


class Policy(NamedTuple):
    """What layers may do to this image: open /etc paths (fnmatch patterns), kinds of declaration, what site
    layers may allow contexts, the first and the last number of experiments' users and groups, and the sites whose
    layers it takes (none named: all)."""

    etc: Tuple[str, ...]
    users: bool
    services: bool
    environment: bool
    cvmfs: bool = True
    allows: Tuple[str, ...] = SWITCHES
    experiment_ids: Tuple[int, int] = EXPERIMENT_IDS
    sites: Tuple[str, ...] = ()


def policy(data: bytes) -> Policy:
    """Reads /usr/lib/kiosk/policy.json."""
    f = read(data, "policy.json")
    found = Policy(
        f.texts("etc", GUEST_PATH, 1000),
        f.boolean("users", True),
        f.boolean("services", True),
        f.boolean("environment", True),
        f.boolean("cvmfs", True),
        f.texts("allows", "|".join(SWITCHES), 10) if f.has("allows") else SWITCHES,
        _ids(f),
        f.texts("sites", NAME, 100),
    )
    f.end()
    return found


def _ids(f: Fields) -> Tuple[int, int]:
    """The first and the last of some numbers."""
    if not f.has("experiment_ids"):
        return EXPERIMENT_IDS
    found = f.items("experiment_ids", 2)
    if (
        len(found) != 2
        or any(type(one) is not int for one in found)
        or not 200 <= found[0] <= found[1] <= 60000
    ):
        f.fault("experiment_ids", "is not two numbers from 200 to 60000, the lower one first")
    return int(found[0]), int(found[1])
