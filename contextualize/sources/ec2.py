"""EC2's metadata service, by its second version alone: a token first, and everything with that token.

Its address is link-local and fixed. No proxy and no redirect is followed, an answer has at most as many bytes as its
reader gives it, and all that is asked on one connection takes a bounded time together. At boot that is PATIENCE
seconds, in which the network comes up as well.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from typing import Callable, Dict, Iterator, Optional

from contextualize.context import LIMIT, Instance
from contextualize.errors import Refused
from contextualize.sources import Told

ADDRESS = "169.254.169.254"
PATIENCE, TIMEOUT, PAUSE = 60.0, 5.0, 0.2
TOKEN_SECONDS = "300"  # noqa: S105
TOKEN, USER_DATA = "/latest/api/token", "/latest/user-data"
INSTANCE, NAME = "/latest/meta-data/instance-id", "/latest/meta-data/local-hostname"

Get = Callable[[str, int], Optional[bytes]]
"""What the service has at a path, of at most so many bytes; None where it has nothing there."""


class NotYet(Exception):
    """The service can't be reached, or is busy: it may answer later."""


def read(address: str = ADDRESS, port: int = 80, patience: float = PATIENCE) -> Told:
    """The user data of this instance; Refused when there is none within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            with session(address, port, end - time.monotonic()) as get:
                instance = (get(INSTANCE, 1024) or b"").decode(errors="replace")
                print(f"EC2 instance {instance!r:.80}", flush=True)
                name = get(NAME, 1024)  # not every service has one
                document = get(USER_DATA, LIMIT)
        except NotYet as e:
            if time.monotonic() + PAUSE >= end:
                raise Refused(
                    f"the metadata service at {address} did not answer within {patience:.0f} s: {e}"
                ) from None
            time.sleep(PAUSE)
            continue
        if document is None:
            raise Refused(f"the metadata service has no {USER_DATA}: this instance was started without any")
        known = (
            Instance("ec2", instance, name.decode(errors="replace") if name else None) if instance else None
        )
        return Told(document, f"ec2:http://{address}", instance=known)


@contextlib.contextmanager
def session(address: str, port: int, seconds: float) -> Iterator[Get]:
    """One connection, with a token, that is cut off after some seconds. NotYet when it can't be had or breaks;
    Refused when the service answers with something else than it should."""
    connection = http.client.HTTPConnection(address, port, timeout=max(0.1, min(TIMEOUT, seconds)))
    cut = threading.Timer(max(0.1, seconds), _cut, [connection])
    cut.daemon = True
    try:
        connection.connect()
        cut.start()
        token = _answer(
            connection, "PUT", TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": TOKEN_SECONDS}, 1024
        )
        if not token or not token.isascii() or not token.decode().isprintable():
            raise Refused("the metadata service gave a token that is none")
        header = {"X-aws-ec2-metadata-token": token.decode()}
        yield lambda path, limit: _answer(connection, "GET", path, header, limit)
    except (OSError, http.client.HTTPException) as e:
        raise NotYet(f"{type(e).__name__}: {e}") from None
    finally:
        cut.cancel()
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    """Ends whatever is being waited for on the connection, which is not made again."""
    connection.auto_open = 0
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, header: Dict[str, str], limit: int
) -> Optional[bytes]:
    connection.request(
        method, path, headers={"Connection": "keep-alive", "Accept-Encoding": "identity", **header}
    )
    response = connection.getresponse()
    data = response.read(limit + 1)
    if response.status == 429 or response.status >= 500:
        raise NotYet(f"{path} gave status {response.status}")
    if response.status == 404:
        return None
    if response.status != 200:
        raise Refused(f"the metadata service gave status {response.status} for {path}")
    if len(data) > limit:
        # The rest of it would stand before the next answer.
        raise Refused(f"the metadata service gave more than {limit} bytes for {path}")
    return data
