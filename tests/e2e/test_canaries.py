"""Secrets spoken in calls are in nothing a run leaves behind: outputs, muted audio, logs, temporary files, metrics.

The canaries are the sample calls' own secrets, a card number cut over four turns with a "thank you" in between, and a
word that only the language model takes for a secret.
"""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import httpx
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from ray_jobs.engines.load_asr import load_asr
from ray_jobs.records import Call, Transcript
from ray_jobs.spec import RunSpec
from ray_jobs.stages.transcribe import transcribe
from spark_etl.job import open_part
from spark_etl.prepare import prepare_partition
from tests.e2e.runs import SAMPLES, read_table, start_job, write_spec
from tests.ray_jobs.endpoint_server import endpoint

pytestmark = pytest.mark.integration

CALLS = ("02_card_payment.wav", "04_appointment.flac")
SPLIT_CALL = "split_card"
RATE_HZ = 8000

SUGGESTED = "renewal"
NAMES = ("helen", "abernathy", "nathan", "caldwell", "juniper")
NUMBERS = ("4111111111111111", "2175550142", "000123456")  # the card, the phone number, the SSN
BASE64 = ("abernathy", "4111111111111111", "217-555-0142", "four one one one", "helen.abernathy@example.com")
IN_TEXT = ("1111", "123456", "0142", "1984", "eighty four", "example", SUGGESTED)
"""Too short or too usual to look for in logs, which hold them by chance."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FIGURES = {word: str(digit) for digit, word in enumerate(_DIGITS)}


def in_figures(text: str) -> str:
    """Lower case, spoken digits as figures, digits with nothing between them: "four, 1-1 one" is "4111"."""
    figures = re.sub(r"[a-z]+", lambda word: _FIGURES.get(word.group(), word.group()), text.lower())
    return re.sub(r"(?<=\d)[\s,.-]+(?=\d)", "", figures)


def encoded(secret: str) -> list[str]:
    """The base64 of a secret wherever it stands in what was encoded: the letters that its neighbours leave alone."""
    return [
        base64.b64encode(b"\0" * offset + secret.encode()).decode()[
            -(-offset * 4 // 3) : (offset + len(secret)) * 4 // 3
        ]
        for offset in range(3)
    ]


def leaked(text: str) -> set[str]:
    """The canaries that a text holds, in whatever form."""
    lower, figures = text.lower(), in_figures(text)
    found = {name for name in NAMES if name in lower}
    found |= {number for number in NUMBERS if number in figures}
    return found | {secret for secret in BASE64 if any(form in text for form in encoded(secret))}


def leaked_in_speech(text: str) -> set[str]:
    return leaked(text) | {part for part in IN_TEXT if part in in_figures(text)}


@pytest.mark.parametrize(
    "text",
    [
        "It's 4-1-1-1. 1-1-1-1. 1-1-1-1. 1-1-1-1.",
        "four one one one, one one one one, one one one one, one one one one",
        "call 217-555-0142",
        base64.b64encode(b"it is 4111111111111111, right").decode(),
        base64.b64encode(b"?my name is Helen abernathy.").decode(),
        "Helen",
    ],
)
def test_the_search_finds_a_canary_in_any_form(text: str) -> None:
    assert leaked(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: its folders, and all that was to be seen of it from outside while it ran."""

    inputs: Path
    output: Path
    temporary: Path
    terminal: str
    metrics: str
    engine_log: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    work = tmp_path_factory.mktemp("canaries")
    inputs, output = work / "in", work / "out"
    inputs.mkdir()
    for name in CALLS:
        shutil.copy(SAMPLES / name, inputs)
    write_split_call(inputs / f"{SPLIT_CALL}.wav")
    temporary = Path(tempfile.mkdtemp(prefix="cm-", dir="/tmp"))  # short, for Ray keeps sockets in it
    try:
        with pytest.MonkeyPatch.context() as patch, endpoint(secrets=[{"kind": "PERSON", "text": SUGGESTED}]) as url:
            spec = write_spec(
                work,
                input={"uri": str(inputs)},
                output={"uri": str(output)},
                redact={"muted_audio": True, "llm": {"model": "big", "endpoint": {"url": url, "backoff_s": 0.1}}},
                llm={"engine": "none"},
            )
            for variable in ("TMPDIR", "RAY_TMPDIR", "SPARK_LOCAL_DIRS"):
                patch.setenv(variable, str(temporary))
            patch.setenv("RAY_metrics_report_interval_ms", "500")  # at Ray's 10 s an engine may end before it has told
            job = start_job("--spec", spec)
            metrics, engine_log = watch(job, temporary)
        terminal, _ = job.communicate()
        assert job.returncode == 0, terminal + engine_log[-4000:]
        yield Run(
            inputs=inputs,
            output=output,
            temporary=temporary,
            terminal=terminal,
            metrics=metrics,
            engine_log=engine_log,
        )
    finally:
        shutil.rmtree(temporary)


def watch(job: "subprocess.Popen[str]", temporary: Path) -> tuple[str, str]:
    """Every metric that was scraped while the job ran, and its engines' log, which a run that ends well removes."""
    metrics, engine_log = "", ""
    while job.poll() is None:
        for log in temporary.glob("callmill-*.log"):
            engine_log = log.read_text(errors="replace")
        for discovery in temporary.glob("ray/prom_metrics_service_discovery.json"):
            for target in json.loads(discovery.read_text())[0]["targets"]:
                try:
                    metrics += httpx.get(f"http://{target}/metrics").text
                except httpx.TransportError:
                    continue  # not up yet, or down again
        time.sleep(0.5)
    return metrics, engine_log


def write_split_call(path: Path) -> None:
    """Sample call 02 from the question for the card on, with the agent's "thank you" in each pause of the number."""
    with av.open(str(SAMPLES / CALLS[0])) as container:
        frames = [frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)]
    call: npt.NDArray[np.int16] = np.concatenate(frames)

    def cut(start_s: float, end_s: float) -> npt.NDArray[np.int16]:
        return call[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]

    thanks = np.zeros((round(2.5 * RATE_HZ), 2), np.int16)
    said = cut(25.3, 25.85)[:, 0]
    thanks[RATE_HZ : RATE_HZ + len(said), 0] = said
    pauses_s = (19.59, 21.45, 23.32)
    pieces = [cut(14.0, pauses_s[0]), thanks, cut(*pauses_s[:2]), thanks, cut(*pauses_s[1:]), thanks, cut(23.32, 33.9)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.concatenate(pieces).astype("<i2").tobytes())


def text_of(path: Path) -> str:
    """A file's bytes as letters, a Parquet file's rows as JSON besides."""
    text = path.read_bytes().decode("latin-1")
    return text + json.dumps(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else text


def test_no_canary_is_in_anything_the_run_leaves_behind(run: Run) -> None:
    texts = {"terminal": run.terminal, "metrics": run.metrics, "engine log": run.engine_log}
    for folder in (run.output, run.temporary):
        texts |= {str(path): text_of(path) for path in folder.rglob("*") if path.is_file()}
    assert {name: found for name, text in texts.items() if (found := leaked(text))} == {}
    assert "ray_callmill_engine_num_windows" in run.metrics, "metrics were scraped while the engines ran"
    assert run.engine_log
    kinds = (".parquet", ".json", ".html", ".vtt", ".srt", ".txt", ".wav", ".log", ".out", ".err")
    assert {kind for kind in kinds if not any(name.endswith(kind) for name in texts)} == set()


def test_what_is_left_of_the_conversation_holds_not_even_part_of_a_secret(run: Run) -> None:
    rows = read_table(run.output, "transcripts").to_pylist()
    assert len(rows) == len(CALLS) + 1
    for row in rows:
        said = " ".join(utterance["text"] for utterance in row["utterances"])
        words = " ".join(word["text"] for utterance in row["utterances"] for word in utterance["words"])
        assert leaked_in_speech(said) == set()
        assert leaked_in_speech(words) == set()


def test_audit_rows_say_what_was_where_and_not_what_it_was(run: Run) -> None:
    rows = {row["call_id"]: row for row in read_table(run.output, "transcripts").to_pylist()}
    assert {r["entity"] for r in rows["02_card_payment"]["redactions"]} == {
        *("PERSON", "CREDIT_CARD", "EXPIRY", "CVV", "ADDRESS", "EMAIL", "PHONE")
    }
    assert {"SSN", "DOB"} <= {r["entity"] for r in rows["04_appointment"]["redactions"]}
    pieces = [r for r in rows[SPLIT_CALL]["redactions"] if r["entity"] == "CREDIT_CARD"]
    assert len(pieces) == 4
    assert {(piece["placeholder"], piece["channel"]) for piece in pieces} == {("[CREDIT_CARD_1]", 1)}
    assert all(0 < piece["start_s"] < piece["end_s"] for piece in pieces)
    recognisers = {r["recogniser"] for r in rows["02_card_payment"]["redactions"]}
    assert "language_model" in recognisers


def test_asr_hears_the_conversation_and_no_secret_in_the_muted_recordings(run: Run) -> None:
    spec = RunSpec.model_validate({"input": {"uri": str(run.inputs)}})
    paths = sorted((run.output / "muted").iterdir())
    assert [path.name for path in paths] == ["02_card_payment.wav", "04_appointment.wav", f"{SPLIT_CALL}.wav"]
    calls = [
        Call(call_id=path.stem, uri=str(path), source=path.name, size_bytes=0, version="", expected_speech_s=0.0)
        for path in paths
    ]
    rows = prepare_partition(calls, spec.etl, open_part)
    heard = transcribe(rows, load_asr(spec.asr, num_threads=2), spec.asr, spec.channels)
    for call in heard:
        assert isinstance(call, Transcript)
        assert leaked_in_speech(call.dialogue()) == set()
    assert "billing address for the card" in heard[0].dialogue()  # type: ignore[union-attr]
