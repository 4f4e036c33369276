"""S3 services for tests: moto's server in this process, and a real Swift."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3.session
import pytest

from kiosk.bucket import Patience
from kiosk.store.s3 import S3Store
from tests.simulators import swift

QUICK = Patience(connect=1, read=2, tries=1)
# Making Swift's virtual environment takes half a minute; with it, Swift starts in two seconds. The quick tests
# use it where it is there, else moto; all tests use both.
SLOW = {True: (pytest.mark.slow,), False: ()}
ENGINES = [
    pytest.param("moto", marks=SLOW[swift.environment() is not None]),
    pytest.param("swift", marks=SLOW[swift.environment() is None]),
]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Engine:
    """A running service; boto3 finds its credentials in the environment while `using` lasts."""

    name: str
    endpoint: str
    key: str
    secret: str

    def bucket(self) -> str:
        """A new bucket."""
        name = f"kiosk-{next(_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> object:
        """A plain client, to do to a bucket what kiosk does not."""
        session = boto3.session.Session(self.key, self.secret, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.endpoint)

    def store(self, bucket: str | None = None, prefix: str = "kiosk") -> S3Store:
        """A store in a bucket (a new one when None)."""
        return S3Store(bucket or self.bucket(), prefix, endpoint=self.endpoint, patience=QUICK)


@contextlib.contextmanager
def started(name: str) -> Iterator[Engine]:
    """A service by its name."""
    if name == "swift":
        with tempfile.TemporaryDirectory(prefix="kiosk-swift-") as folder, swift.running(Path(folder)) as s:
            yield Engine("swift", s.endpoint, s.key, s.secret)
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Engine("moto", f"http://{host}:{port}", "testing", "MOTOSECRET")
    finally:
        server.stop()


@contextlib.contextmanager
def using(key: str, secret: str) -> Iterator[None]:
    """Gives boto3 these credentials and no configuration of whoever runs the tests."""
    before = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    mine = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        for k in before:
            del os.environ[k]
        os.environ.update({k: v for k, v in mine.items() if v})
        yield
    finally:
        for k in mine:
            os.environ.pop(k, None)
        os.environ.update(before)
