"""Shared by the tests of engines."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def without_flask() -> Iterator[None]:
    """Hides what an actor never imports: vLLM looks into every loaded module, and the request proxies of Flask, which
    the S3 server and Airflow of other tests load into this process, do not bear that."""
    proxies = sys.modules.get("werkzeug.local")
    hidden = {
        name: module
        for name, module in list(sys.modules.items())
        if proxies and any(type(value) is proxies.LocalProxy for value in vars(module).values())
    }
    for name in hidden:
        del sys.modules[name]
    yield
    sys.modules.update(hidden)
