"""The JSON schema of the context document, made of the very patterns and bounds of the guest's reader.

It describes the structure: what it accepts the reader accepts, and the other way round. What a schema can't say is
left to the reader: whether the source knows a machine for which there is no `node`, one disk named twice, a jitter that
is not shorter than the age, keys that stand twice, and the size and depth of the whole.
"""

from __future__ import annotations

from typing import Any

from contextualize import context as c
from contextualize.document import FARM_KIND, LAYER_NAME, NAME, SETTING, VERSION

ID = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema, as `kiosk context schema` prints it."""
    return {
        "$schema": ID,
        "title": "kiosk.context/1",
        "description": "What a machine is told at boot, the same from every source.",
        **_object(
            {
                "schema": {"const": "kiosk.context/1"},
                "node": {
                    "description": "May be left out where the source knows the machine: ec2, configdrive, opennebula.",
                    **_object(
                        {"id": _text(c.UUID, "A UUID of this machine."), "name": _name("Its host name.")},
                        required=["id", "name"],
                    ),
                },
                "image": _object(
                    {"name": _text(NAME, "The image that this must be."), "version": _text(VERSION)},
                    required=["name", "version"],
                ),
                "layers": _list(_layer(), 16, "Signed layers, and the disks that hold them."),
                "repository": _object(
                    {
                        "url": _text(c.URL, "Where signed metadata is fetched from."),
                        "proxy": _text(c.URL, "The site's HTTP proxy."),
                    },
                    required=["url"],
                ),
                "scratch": _object(
                    {
                        "device": _text(c.SERIAL, "The serial of the scratch disk."),
                        "mount": _text(c.MOUNT),
                        "swap": _whole(0, 1 << 20, "MiB of it that become swap space."),
                    },
                    required=["device", "mount"],
                ),
                "network": _network(),
                "time_servers": _list(_name(), 8, "NTP servers."),
                "root_keys": _list(_text(c.KEY), 50, "ssh keys of root; a site layer must allow root-login."),
                "life": _life(),
                "farm": _farm(),
                "hooks": _object(
                    {
                        "prolog": _text(c.TEXT, "Runs as root before the attestation is written."),
                        "epilog": _text(c.TEXT, "Runs as root before the farm is joined."),
                    },
                    required=[],
                ),
                "user_data": _text(c.TEXT, "For cloud-init, or a script; a site layer must allow user-data."),
            },
            required=["schema", "image"],
        ),
    }


def _layer() -> dict[str, Any]:
    return _object(
        {
            "name": _text(LAYER_NAME),
            "version": _text(VERSION),
            "device": _text(c.SERIAL, "The serial of the disk."),
        },
        required=["name", "version", "device"],
    )


def _network() -> dict[str, Any]:
    return _object(
        {
            "address": _text(rf"{c.ADDRESS}/[0-9]{{1,3}}", "A static address with its prefix's length."),
            "gateway": _text(c.ADDRESS),
            "dns": _list(_text(c.ADDRESS), 4),
            "search": _list(_name(), 6),
            "mac": _text(c.MAC, "Which interface is meant, where there are several."),
        },
        required=["address"],
    )


def _life() -> dict[str, Any]:
    year = 366 * c.DAY
    return _object(
        {
            "age": _whole(60, year, "Seconds after which the machine begins to drain (a day)."),
            "jitter": _whole(0, year, "Seconds by which it begins earlier, by its id (0)."),
            "drain": _whole(0, year, "Seconds that running jobs are waited for (a day)."),
        },
        required=[],
    )


def _farm() -> dict[str, Any]:
    return _object(
        {
            "kind": _text(FARM_KIND, "slurm, lsf or htcondor."),
            "name": _text(NAME),
            "settings": _pairs(_text(r"[^\x00-\x1f\x7f]{0,2000}"), 50),
            "secrets": _pairs(_base64(64 * 1024), 20),
            "timeout": _whole(
                10, c.LONGEST_JOIN, "Seconds within which the farm must list the machine (600)."
            ),
        },
        required=["kind", "name"],
        description="The farm to join; a site layer must declare it, or allow farm.",
    )


def whole_pattern(pattern: str) -> str:
    """A pattern that must match a text as a whole, for readers of schemas, whose `$` may stop before a line's end."""
    return rf"^(?:{pattern})$(?!\n)"


def _text(pattern: str, description: str | None = None) -> dict[str, Any]:
    found = {"type": "string", "pattern": whole_pattern(pattern)}
    return found if description is None else {"description": description, **found}


def _base64(most: int) -> dict[str, Any]:
    """At least one byte and at most so many."""
    end = r"[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4}"
    found = _text(rf"(?:[A-Za-z0-9+/]{{4}})*(?:{end})")
    return {**found, "contentEncoding": "base64", "maxLength": -(-most // 3) * 4}


def _name(description: str | None = None) -> dict[str, Any]:
    """A host name: the reader's pattern has its length in a form of Python's own."""
    label = c.HOST_LABEL
    return {**_text(rf"{label}(?:\.{label})*", description), "maxLength": 253}


def _whole(low: int, high: int, description: str) -> dict[str, Any]:
    return {"description": description, "type": "integer", "minimum": low, "maximum": high}


def _list(items: dict[str, Any], most: int, description: str | None = None) -> dict[str, Any]:
    found = {"type": "array", "items": items, "maxItems": most}
    return found if description is None else {"description": description, **found}


def _pairs(values: dict[str, Any], most: int) -> dict[str, Any]:
    return {
        "type": "object",
        "propertyNames": {"pattern": whole_pattern(SETTING)},
        "additionalProperties": values,
        "maxProperties": most,
    }


def _object(
    properties: dict[str, Any], *, required: list[str], description: str | None = None
) -> dict[str, Any]:
    found = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return found if description is None else {"description": description, **found}
