"""Reads a file of shell variables as data: what is read is what a shell would have read, and nothing is done.

Lines are `NAME='value'` as OpenNebula writes them: the value may go over several lines, and a quote in it is
written `'\\''`. Values in double quotes and bare ones are read where a shell would take them as they stand. Anything
that a shell would act upon (`$`, backquotes, commands, a second word) is refused.
"""

from __future__ import annotations

import re
from typing import Dict

from contextualize.errors import Refused

NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
ASSIGNMENT = re.compile(
    r"(?P<name>[A-Za-z_][A-Za-z0-9_]{0,100})="
    r"(?:(?P<single>(?:'[^']*'|\\')+)|\"(?P<double>[^\"$`\\!]*)\"|(?P<bare>[A-Za-z0-9_./:@%+,-]*))"
    r"[ \t]*(?:\n|\Z)"
)
MOST = 1000


def variables(data: bytes, where: str) -> Dict[str, str]:
    """The variables by name; Refused, naming the line, when the file is more than a list of them."""
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise Refused(f"{where}: not UTF-8") from None
    if "\0" in text:
        raise Refused(f"{where}: has a zero byte")
    found: Dict[str, str] = {}
    at = 0
    while at < len(text):
        nothing = NOTHING.match(text, at)
        if nothing:
            at = nothing.end()
            continue
        one = ASSIGNMENT.match(text, at)
        line = text.count("\n", 0, at) + 1
        if one is None:
            raise Refused(f"{where}: line {line}: not NAME='value'")
        if one["name"] in found or len(found) == MOST:
            raise Refused(f"{where}: line {line}: {one['name']} a second time, or more than {MOST} variables")
        found[one["name"]] = _value(one)
        at = one.end()
    return found


def _value(one: re.Match[str]) -> str:
    if one["single"] is not None:
        parts = re.findall(r"'([^']*)'|\\(')", one["single"])
        return "".join(quoted or escaped for quoted, escaped in parts)
    return one["double"] if one["double"] is not None else one["bare"]
