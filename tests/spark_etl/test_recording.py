"""A recording is read where it is asked for, and a file that changes meanwhile is noticed."""

import hashlib

import pytest

from ray_jobs.errors import CallError
from spark_etl.recording import Recording


def test_any_stretch_is_read_and_the_end_is_short():
    with Recording.holding(b"0123456789") as recording:
        assert (recording.size_bytes, recording.read(0, 4), recording.read(8, 4)) == (10, b"0123", b"89")
        assert recording.read(10, 4) == b""
        recording.check_unchanged()


def test_its_digest_is_of_all_its_bytes():
    data = bytes(range(256)) * 5000  # more than is read at once
    with Recording.holding(data) as recording:
        assert recording.sha256() == hashlib.sha256(data).digest()


def test_a_file_that_is_written_to_has_changed(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(b"0123456789")
    with Recording(path.open("rb")) as recording:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(CallError, match="written to while it was read"):
            recording.check_unchanged()


def test_a_file_that_is_replaced_is_still_the_one_that_was_opened(tmp_path):
    path, other = tmp_path / "call.wav", tmp_path / "other"
    path.write_bytes(b"0123456789")
    other.write_bytes(b"other")
    with Recording(path.open("rb")) as recording:
        other.replace(path)
        assert recording.read(0, 10) == b"0123456789"
        recording.check_unchanged()
