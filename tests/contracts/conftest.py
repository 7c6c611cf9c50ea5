"""A Kubernetes API of our own for every contract test that needs one."""

from collections.abc import Iterator

import pytest

from tests.contracts.fake_kubernetes import FakeKubernetes


@pytest.fixture
def api() -> Iterator[FakeKubernetes]:
    server = FakeKubernetes().start()
    yield server
    server.stop()
