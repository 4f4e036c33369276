"""The metadata service of EC2, by its second version: a token first, and everything with that token.

Its address is link-local and fixed. No proxy and no redirect is followed, an answer has at most as many bytes as a
context document, and all of it together takes at most PATIENCE seconds, in which the network comes up as well.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from typing import Dict, Optional, Tuple

from contextualize.context import LIMIT, Instance
from contextualize.errors import Refused
from contextualize.sources import Told

ADDRESS = "169.254.169.254"
PATIENCE, TIMEOUT, PAUSE = 60.0, 5.0, 0.2
TOKEN_SECONDS = "300"  # noqa: S105
TOKEN, USER_DATA = "/latest/api/token", "/latest/user-data"
INSTANCE, NAME = "/latest/meta-data/instance-id", "/latest/meta-data/local-hostname"


class NotYet(Exception):
    """The service can't be reached, or is busy: it may answer later."""


def read(address: str = ADDRESS, port: int = 80, patience: float = PATIENCE) -> Told:
    """The user data of this instance; Refused when there is none within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            document, instance = _ask(address, port, end)
        except NotYet as e:
            if time.monotonic() + PAUSE >= end:
                raise Refused(
                    f"the metadata service at {address} did not answer within {patience:.0f} s: {e}"
                ) from None
            time.sleep(PAUSE)
        else:
            return Told(document, f"ec2:http://{address}", instance=instance)


def _ask(address: str, port: int, end: float) -> Tuple[bytes, Instance]:
    """Asks for a token and then for the rest, on one connection that is cut off at the end of our patience."""
    left = end - time.monotonic()
    connection = http.client.HTTPConnection(address, port, timeout=max(0.1, min(TIMEOUT, left)))
    try:
        connection.connect()
        cut = threading.Timer(max(0.1, left), _cut, [connection])
        cut.daemon = True
        cut.start()
        try:
            token = _get(
                connection, "PUT", TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": TOKEN_SECONDS}, 1024
            )
            if not token.isascii() or not token.decode().isprintable() or not token:
                raise Refused("the metadata service gave a token that is none")
            header = {"X-aws-ec2-metadata-token": token.decode()}
            instance = _get(connection, "GET", INSTANCE, header, 1024)
            print(f"EC2 instance {instance.decode(errors='replace')!r:.80}", flush=True)
            name = _name(connection, header)
            document = _get(connection, "GET", USER_DATA, header, LIMIT)
            return document, Instance("ec2", instance.decode(errors="replace"), name)
        finally:
            cut.cancel()
    except (OSError, http.client.HTTPException) as e:
        raise NotYet(f"{type(e).__name__}: {e}") from None
    finally:
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    """Ends whatever is being waited for on the connection."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _name(connection: http.client.HTTPConnection, header: Dict[str, str]) -> Optional[str]:
    """The instance's host name; not every service has one."""
    status, data = _answer(connection, "GET", NAME, header, 1024)
    return data.decode(errors="replace") if status == 200 and data else None


def _get(
    connection: http.client.HTTPConnection, method: str, path: str, header: Dict[str, str], limit: int
) -> bytes:
    status, data = _answer(connection, method, path, header, limit)
    if status != 200:
        raise Refused(f"the metadata service gave status {status} for {path}")
    return data


def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, header: Dict[str, str], limit: int
) -> Tuple[int, bytes]:
    connection.request(
        method, path, headers={"Connection": "keep-alive", "Accept-Encoding": "identity", **header}
    )
    response = connection.getresponse()
    data = response.read(limit + 1)
    if response.status == 429 or response.status >= 500:
        raise NotYet(f"{path} gave status {response.status}")
    if len(data) > limit:
        # The rest of it would stand before the next answer.
        raise Refused(f"the metadata service gave more than {limit} bytes for {path}")
    return response.status, data
