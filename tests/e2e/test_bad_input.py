"""Whatever lies in the input folder ends as an outcome or as one line that names it; no run is lost to it.

What is known of a call goes with it, whichever way it ends; a call may be two files, or one without a header.
"""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from ray_jobs.ledger import Ledger
from ray_jobs.spec import load_spec
from spark_etl.plan import make_plan, persist
from tests.e2e.runs import SAMPLES, call_ids, read_table, report, run_job, write_spec

pytestmark = pytest.mark.integration

NO_LLM = {"engine": "none"}


def encode(path: Path, samples: np.ndarray, rate_hz: int, layout: str) -> None:
    """16-bit WAV of samples, int16, shape (num_samples, num_channels)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), format="s16", layout=layout)
        frame.rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def with_data_size(wav: bytes, size: int) -> bytes:
    """The WAV file with another length in the header of its data chunk."""
    at = wav.index(b"data") + 4
    return wav[:at] + size.to_bytes(4, "little") + wav[at + 4 :]


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    voicemail = (SAMPLES / "06_voicemail.wav").read_bytes()
    (folder / "good.wav").write_bytes(voicemail)  # one of its channels is silent
    (folder / "good_again.wav").write_bytes(voicemail)
    (folder / "zero.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not audio\n" * 50)
    (folder / "truncated.wav").write_bytes(voicemail[:9_000])
    (folder / "lying.wav").write_bytes(with_data_size(voicemail, 2 * len(voicemail)))
    (folder / "streamed.wav").write_bytes(with_data_size(voicemail, 0xFFFFFFFF))  # a length that was never filled in
    rng = np.random.default_rng(1)
    encode(folder / "hush.wav", rng.integers(-3, 4, (80_000, 1)).astype(np.int16), 8_000, "mono")
    (folder / "hush_again.wav").write_bytes((folder / "hush.wav").read_bytes())
    encode(folder / "six.wav", rng.integers(-3, 4, (96_000, 6)).astype(np.int16), 48_000, "5.1")
    (folder / "gone.wav").write_bytes(voicemail)
    audio = voicemail[voicemail.index(b"data") + 8 :]
    (folder / "headerless.ulaw").write_bytes(audio)
    for channel, role in enumerate(("agent", "customer")):
        (folder / f"pair-{role}.ulaw1").write_bytes(audio[channel::2])
    return folder


INPUT = {
    "raw": [
        {"globs": ["*.ulaw"], "encoding": "mulaw", "num_channels": 2},
        {"globs": ["*.ulaw1"], "encoding": "mulaw"},
    ],
    "name_pattern": "(?P<call_id>.+)-(?P<role>agent|customer)",
    "metadata": ["queue", "agent"],
}
KNOWN = {"good": {"queue": "sales", "agent": "a-17"}, "zero": {"queue": "claims"}, "pair": {"queue": "claims"}}


def write_manifest(path: Path) -> Path:
    lines = [f"{call_id},{known['queue']},{known.get('agent', '')}" for call_id, known in KNOWN.items()]
    path.write_text("\n".join(["call_id,queue,agent", *lines]))
    return path


@pytest.fixture(scope="module")
def outcome(bad_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """One run over the folder; gone.wav is deleted after it was planned."""
    work = tmp_path_factory.mktemp("work")
    output = work / "out"
    manifest = write_manifest(work / "manifest.csv")
    selection = {"uri": str(bad_folder), "manifest": str(manifest), **INPUT}
    path = write_spec(work, input=selection, output={"uri": str(output)}, llm=NO_LLM)
    spec = load_spec(path)
    ledger = Ledger(spec.output.uri)
    persist(make_plan(spec, ledger), ledger)
    (bad_folder / "gone.wav").unlink()
    code, text = run_job("--spec", path)
    return code, text, output


def test_the_run_succeeds_and_every_call_is_accounted_for(outcome: tuple[int, str, Path]) -> None:
    code, text, output = outcome
    assert code == 0, text
    found = report(output)
    assert found["accounted"]
    assert (found["num_calls"], found["num_ok"] + found["num_failed"]) == (13, 13)


def test_each_bad_file_fails_for_its_own_reason(outcome: tuple[int, str, Path]) -> None:
    rows = read_table(outcome[2], "failures").to_pylist()
    codes = {row["call_id"]: row["code"] for row in rows}
    assert codes == {
        "zero": "empty",
        "text": "unreadable",
        "truncated": "truncated",
        "lying": "truncated",
        "hush": "no_speech",
        "hush_again": "no_speech",
        "six": "no_speech",
        "gone": "vanished",
    }
    assert all(row["stage"] == "etl" and row["reason"] for row in rows)


def test_the_good_calls_are_transcribed_all_the_same(outcome: tuple[int, str, Path]) -> None:
    assert call_ids(outcome[2], "transcripts") == ["good", "good_again", "headerless", "pair", "streamed"]


def test_the_same_call_reads_the_same_in_every_form(outcome: tuple[int, str, Path]) -> None:
    rows = {row["call_id"]: row for row in read_table(outcome[2], "transcripts").to_pylist()}
    texts = {name: [(u["role"], u["text"]) for u in row["utterances"]] for name, row in rows.items()}
    assert texts["good"]
    assert all(text == texts["good"] for text in texts.values())


@pytest.mark.parametrize(
    ("folder", "twins"), [("transcripts", ["good", "good_again"]), ("failures", ["hush", "hush_again"])]
)
def test_a_recording_that_is_there_twice_is_done_once_and_told_of_both(
    outcome: tuple[int, str, Path], folder: str, twins: list[str]
) -> None:
    of_what = {row["call_id"]: row["duplicate_of"] for row in read_table(outcome[2], folder).to_pylist()}
    assert {call_id for call_id, original in of_what.items() if original} < set(twins), "of twins, one"
    assert sorted(of_what[twin] or twin for twin in twins) in ([twins[0]] * 2, [twins[1]] * 2)


def test_what_is_known_of_a_call_is_in_its_outcome(outcome: tuple[int, str, Path]) -> None:
    rows = [*read_table(outcome[2], "transcripts").to_pylist(), *read_table(outcome[2], "failures").to_pylist()]
    found = {row["call_id"]: dict(row["metadata"]) for row in rows}
    assert {call_id: known for call_id, known in found.items() if known} == KNOWN
    assert json.loads((outcome[2] / "calls" / "good.json").read_text())["metadata"] == KNOWN["good"]


def test_no_traceback_reaches_the_user(outcome: tuple[int, str, Path]) -> None:
    assert "Traceback" not in outcome[1]


class TestRefusedBeforeAnythingStarts:
    """Seconds, one line, exit code 2 for a wrong spec and 1 for what cannot go on."""

    def refused(self, *arguments: object) -> tuple[int, str]:
        code, text = run_job(*arguments, timeout_s=180)
        assert "Traceback" not in text
        assert len(text.strip().splitlines()) == 1, text
        return code, text

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        code, text = self.refused("--input", tmp_path / "in", "--output", tmp_path / "out")
        assert code == 2
        assert "there is nothing there" in text

    def test_a_folder_without_audio(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "readme.txt").write_text("hello")
        code, text = self.refused("--input", tmp_path / "in", "--output", tmp_path / "out")
        assert code == 2
        assert "none of its 1 files is selected" in text

    def test_a_spec_with_a_typo(self, tmp_path: Path) -> None:
        path = write_spec(tmp_path, input={"uri": str(SAMPLES)}, asr={"modle": "whisper-base"})
        code, text = self.refused("--spec", path)
        assert code == 2
        assert "unknown key asr.modle; did you mean model?" in text

    def test_a_model_path_that_is_not_there(self, tmp_path: Path) -> None:
        path = write_spec(tmp_path, input={"uri": str(SAMPLES)}, asr={"model": str(tmp_path / "weights")})
        code, text = self.refused("--spec", path, "--output", tmp_path / "out")
        assert code == 1
        assert str(tmp_path / "weights") in text
        assert not (tmp_path / "out").exists()

    def test_an_output_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        code, text = self.refused("--input", SAMPLES, "--output", tmp_path / "file" / "out")
        assert code == 1
        assert "cannot be written" in text

    def test_a_dry_run_prints_the_plan_and_touches_nothing(self, tmp_path: Path) -> None:
        code, text = run_job("--input", SAMPLES, "--output", tmp_path / "out", "--dry-run", timeout_s=180)
        assert code == 0
        assert "calls      8, of which 0 are done and 8 to do" in text
        assert not (tmp_path / "out").exists()
