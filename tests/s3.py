"""A real S3 server on this machine, and the product pointed at it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from ray_jobs import storage
from tests.fault_proxy import FaultProxy, faulty


@contextmanager
def running_s3() -> Iterator[str]:
    """The server's URL while it runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_s3(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the product at a server, with a client of its own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage._client.cache_clear()


@contextmanager
def bucket_behind_faults(bucket: str, url: str, monkeypatch: pytest.MonkeyPatch, **faults: Any) -> Iterator[FaultProxy]:
    """A new bucket of the server, which the product now reaches through a proxy with the faults of FaultProxy."""
    with faulty(url, **faults) as proxy:
        use_s3(proxy.url, monkeypatch)
        boto3.client("s3").create_bucket(Bucket=bucket)
        try:
            yield proxy
        finally:
            storage._client.cache_clear()
