"""Files and S3 through one face; S3 is a real HTTP server."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_jobs import storage
from ray_jobs.errors import OutputError, RetryableError, SpecError


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty location: a folder, or a prefix of a bucket."""
    if request.param == "file":
        return str(tmp_path / "root")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_server"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage._client.cache_clear()
    import boto3

    boto3.client("s3").create_bucket(Bucket="calls")
    return f"s3://calls/{tmp_path.name}"


def test_what_is_written_is_read_back_and_listed_in_order(root: str) -> None:
    for name in ("b/2.wav", "a.wav", "b/1.wav"):
        storage.write_bytes(storage.join(root, name), name.encode())
    listed = list(storage.list_objects(root))
    assert [storage.relative(info.uri, root) for info in listed] == ["a.wav", "b/1.wav", "b/2.wav"]
    assert [storage.read_bytes(info.uri) for info in listed] == [b"a.wav", b"b/1.wav", b"b/2.wav"]
    assert storage.read_many([info.uri for info in listed]) == [b"a.wav", b"b/1.wav", b"b/2.wav"]
    assert storage.read_head(listed[0].uri, 2) == b"a."
    assert storage.stat(listed[0].uri) == listed[0]


def test_nothing_is_listed_where_nothing_is(root: str) -> None:
    assert list(storage.list_objects(storage.join(root, "nowhere"))) == []


def test_a_version_that_is_no_longer_there_is_not_read(root: str) -> None:
    uri = storage.join(root, "call.wav")
    storage.write_bytes(uri, b"first")
    version = storage.stat(uri).version
    assert storage.read_bytes(uri, version=version) == b"first"
    storage.write_bytes(uri, b"second!")
    with pytest.raises(storage.ChangedError):
        storage.read_bytes(uri, version=version)


def test_what_is_not_there_is_a_file_not_found(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "gone"))
    storage.delete(storage.join(root, "gone"))


def test_of_many_writers_exactly_one_creates(root: str) -> None:
    uri = storage.join(root, "marker.json")
    start = threading.Barrier(8)

    def create(index: int) -> bool:
        start.wait()
        return storage.create_bytes(uri, b"%d" % index)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert storage.read_bytes(uri) == b"%d" % won.index(True)


def test_a_listing_longer_than_a_page_is_complete(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not storage.is_s3(root):
        pytest.skip("only S3 lists in pages")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: storage.write_bytes(storage.join(root, f"{i:05}.wav"), b"x"), range(1_050)))
    assert len(list(storage.list_objects(root))) == 1_050


def test_no_half_written_file_is_left_behind(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a"), b"x")
    assert not storage.create_bytes(str(tmp_path / "a"), b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_unknown_scheme_and_an_unwritable_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="ftp://host/calls: no support for ftp://"):
        storage.normalise("ftp://host/calls")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out: cannot be written"):
        storage.check_writable(str(tmp_path / "file" / "out"))


def test_forms_of_one_location_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.normalise("calls/") == storage.normalise(f"file://{tmp_path}/calls") == str(tmp_path / "calls")
    assert storage.normalise("s3://bucket/prefix/") == "s3://bucket/prefix"


def test_a_server_that_is_not_there_is_worth_retrying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(storage, "MAX_ATTEMPTS", 1)
    storage._client.cache_clear()
    with pytest.raises(RetryableError, match="s3://calls/x: Could not connect"):
        storage.read_bytes("s3://calls/x")
    storage._client.cache_clear()
