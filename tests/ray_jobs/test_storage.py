"""Files and S3 through one face; S3 is a real HTTP server."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from ray_jobs import storage
from ray_jobs.errors import OutputError, RetryableError, SpecError
from ray_jobs.ledger import Ledger, new_marker
from tests.fault_proxy import FaultProxy
from tests.s3 import bucket_behind_faults, running_s3, use_s3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture
def through_faults(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[FaultProxy, str]]:
    """A proxy before the S3 server that the product now uses, good until told otherwise; and an empty prefix."""
    with bucket_behind_faults("faults", s3_server, monkeypatch) as proxy:
        yield proxy, f"s3://faults/{tmp_path.name}"


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty location: a folder, or a prefix of a bucket."""
    if request.param == "file":
        return str(tmp_path / "root")
    use_s3(request.getfixturevalue("s3_server"), monkeypatch)
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


class TestLargeObjects:
    """Read in parts, by way of a proxy that counts and spoils."""

    CONTENT = bytes(range(256)) * 1000

    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "PART_BYTES", 10_000)

    def test_they_are_read_in_parallel_parts_and_no_more_than_a_few_at_once(
        self, through_faults: tuple[FaultProxy, str]
    ) -> None:
        proxy, root = through_faults
        uri = storage.join(root, "call.wav")
        storage.write_bytes(uri, self.CONTENT)
        proxy.latency_s = 0.05
        with ThreadPoolExecutor(3) as pool:  # however many objects are read at once
            assert list(pool.map(storage.read_bytes, [uri] * 3)) == [self.CONTENT] * 3
        ranges = [byte_range for method, _, byte_range in proxy.requests if method == "GET"]
        assert len(ranges) == 3 * 26
        assert set(ranges) == {f"bytes={start}-{start + 9_999}" for start in range(0, 256_000, 10_000)}
        assert 1 < proxy.most_at_once <= storage.PART_THREADS + 3

    def test_throttling_and_broken_answers_are_tried_again(
        self, through_faults: tuple[FaultProxy, str], tmp_path: Path
    ) -> None:
        proxy, root = through_faults
        uri = storage.join(root, "call.wav")
        storage.write_bytes(uri, self.CONTENT)
        proxy.throttle, proxy.cut = 7, 5
        assert storage.read_bytes(uri) == self.CONTENT
        storage.download(uri, tmp_path / "call.wav", version=storage.stat(uri).version)
        assert (tmp_path / "call.wav").read_bytes() == self.CONTENT
        assert proxy.done["throttled"] > 3
        assert proxy.done["cut"] > 3

    def test_parts_of_two_versions_are_never_joined(
        self, through_faults: tuple[FaultProxy, str], s3_server: str
    ) -> None:
        proxy, root = through_faults
        direct = boto3.client("s3", endpoint_url=s3_server)
        uri = storage.join(root, "call.wav")
        storage.write_bytes(uri, self.CONTENT)
        old = storage.stat(uri).version
        num_parts = 0

        def replace_after_three_parts(method: str, path: str) -> bool:
            nonlocal num_parts
            num_parts += method == "GET"
            if num_parts == 3:
                proxy.is_hit = lambda method, path: False
                direct.put_object(**storage._bucket_key(uri), Body=self.CONTENT[::-1])
            return False

        proxy.is_hit = replace_after_three_parts
        with pytest.raises(storage.ChangedError):
            storage.read_bytes(uri)
        with pytest.raises(storage.ChangedError):
            storage.read_bytes(uri, version=old)
        assert storage.read_bytes(uri) == self.CONTENT[::-1]

    def test_an_empty_object_is_read_as_such(self, through_faults: tuple[FaultProxy, str], tmp_path: Path) -> None:
        uri = storage.join(through_faults[1], "empty.wav")
        storage.write_bytes(uri, b"")
        assert storage.read_bytes(uri, version=storage.stat(uri).version) == b""
        storage.download(uri, tmp_path / "empty.wav")
        assert (tmp_path / "empty.wav").read_bytes() == b""


def test_a_marker_whose_answer_got_lost_is_known_for_ones_own(through_faults: tuple[FaultProxy, str]) -> None:
    """The first try created it; the one after the broken answer finds it there."""
    proxy, root = through_faults
    marker = new_marker("transcripts", "p-1", "f", "run1", [], [])
    proxy.cut, proxy.is_hit = 1, lambda method, path: method == "PUT" and not proxy.done["cut"]
    assert Ledger(root).commit(marker).run_id == "run1"
    assert len([path for method, path, _ in proxy.requests if method == "PUT" and path.endswith("p-1.json")]) == 2


def test_private_objects_are_stored_under_the_key(through_faults: tuple[FaultProxy, str]) -> None:
    uri = storage.join(through_faults[1], "audio.parquet")
    storage.write_private(uri, b"audio", kms_key_id="alias/calls")
    where = storage._bucket_key(uri)
    head = boto3.client("s3").head_object(Bucket=where["Bucket"], Key=where["Key"])
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["SSEKMSKeyId"].endswith("alias/calls")
    assert storage.read_bytes(uri) == b"audio"
