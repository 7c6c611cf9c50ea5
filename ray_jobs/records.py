"""What travels between the stages: frozen records, and the Arrow schemas they are stored under.

Times are seconds on the call's own clock unless a name says otherwise; probabilities are natural logarithms where a
name says `logprob`. A partition's rows keep the order of its planned calls.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_jobs import g711

SCHEMA_VERSION = 2
"""Version of every output schema below; stored in Parquet metadata and in each JSON document."""

FAILURE_CODES: dict[str, bool] = {
    # code: whether it is transient, that is, whether any later run tries the call again
    "unreadable": False,
    "truncated": False,
    "unsupported_codec": False,
    "empty": False,
    "no_speech": False,
    "too_long": False,
    "decoder_crashed": False,
    "vanished": True,
    "changed": True,
    "access_denied": True,
    "timeout": True,
    "storage": True,
    "asr_crashed": False,
    "asr_error": False,
    "redaction_error": False,
}


Metadata = Mapping[str, str]
"""What is known of a call beside its audio (agent, queue, started_at, ...), as far as outputs may show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCoding:
    """How a recording without a header is to be read. `encoding` is one of those `spark_etl.decode` has."""

    encoding: str
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a call. `roles` are those of its channels, as far as they are known; `raw` is None with a header."""

    uri: str
    version: str
    roles: tuple[str, ...] = ()
    raw: RawCoding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One planned call. `version` changes when its content does (an ETag, or size and modified time), or the way it is
    to be read: its coding, its channels' roles, its language.

    `uri` is where it is read; `source` is what outputs call it, which differs where the name itself is personal.
    `parts` is empty for what most calls are: one file that says itself what is in it, at `uri` in `version`. The
    channels of several parts are laid side by side in their order; `missing_roles` are parties whose file was not
    there. `language` is "" where the spec decides.
    """

    call_id: str
    uri: str
    source: str
    size_bytes: int
    version: str
    expected_speech_s: float
    parts: tuple[Part, ...] = ()
    language: str = ""
    missing_roles: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict)

    @property
    def files(self) -> tuple[Part, ...]:
        """What is to be read for the call, one file at least."""
        return self.parts or (Part(uri=self.uri, version=self.version),)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Inverse of `asdict` followed by JSON."""
        parts = tuple(
            Part(
                uri=part["uri"],
                version=part["version"],
                roles=tuple(part["roles"]),
                raw=RawCoding(**part["raw"]) if part["raw"] else None,
            )
            for part in document["parts"]
        )
        return cls(**{**document, "parts": parts, "missing_roles": tuple(document["missing_roles"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of speech in one channel, in samples at the call's `sample_rate_hz`."""

    channel: int
    start_sample: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAudio:
    """The speech of one call: what ETL hands to ASR.

    `pcm` holds the samples of `spans`, one after the other in their order (by channel, then start), as little-endian
    int16 at `sample_rate_hz`: 8,000 for a recording at that rate, 16,000 for any other. `roles` holds one per channel,
    "" where the spec decides, or nothing; `language` is "" where the spec decides. `duplicate_of` is the call of the
    same partition whose recording has the same bytes and is read the same way; its `spans` are then not repeated here.
    """

    call_id: str
    uri: str
    duration_s: float
    sample_rate_hz: int
    num_channels: int
    spans: tuple[Span, ...]
    pcm: bytes
    roles: tuple[str, ...] = ()
    language: str = ""
    missing_roles: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    duplicate_of: str | None = None

    @property
    def speech_s(self) -> float:
        return sum(span.num_samples for span in self.spans) / self.sample_rate_hz

    def iter_speech(self) -> Iterator[tuple[Span, npt.NDArray[np.int16]]]:
        """Each span with its samples (a view): int16, shape (num_samples,)."""
        samples = np.frombuffer(self.pcm, dtype="<i2")
        position = 0
        for span in self.spans:
            yield span, samples[position : position + span.num_samples]
            position += span.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call without a transcript. `stage` is etl, asr or redact; `code` is a key of FAILURE_CODES.

    `duplicate_of` is the call of the same recording that was tried in its place.
    """

    call_id: str
    uri: str
    code: str
    stage: str
    reason: str
    metadata: Metadata = field(default_factory=dict)
    duplicate_of: str | None = None

    @property
    def transient(self) -> bool:
        return FAILURE_CODES[self.code]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word; `text` carries no surrounding blanks. `probability` is in [0, 1]."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What one party said without a long pause. `role` is the channel's role (agent, customer, mixed, ...).

    `repetition_cut` warns that the model fell into a loop here: a phrase it said over and over stands once, and words
    spoken meanwhile may be missing.
    """

    channel: int
    role: str
    start_s: float
    end_s: float
    text: str
    language: str
    avg_logprob: float
    no_speech_prob: float
    words: tuple[Word, ...]
    repetition_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """One removed secret, without the secret: where it was, what kind it was, what stands in its place."""

    entity: str
    placeholder: str
    channel: int
    start_s: float
    end_s: float
    recogniser: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The words of one call: utterances of all channels in order of start.

    `redacted` is False between ASR and redaction, and in a durable output only where the spec says in so many words
    that unredacted text is to be stored. `missing_roles` are parties that were recorded in a file of their own which
    was not there. `duplicate_of` is the call whose recording is the same, byte for byte, and whose words these are.
    """

    call_id: str
    uri: str
    duration_s: float
    speech_s: float
    num_channels: int
    language: str
    asr_model: str
    redacted: bool
    utterances: tuple[Utterance, ...]
    redactions: tuple[Redaction, ...] = ()
    missing_roles: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    duplicate_of: str | None = None

    def dialogue(self) -> str:
        """One line per utterance, `role: text`, in time order: what a language model is shown."""
        return "\n".join(f"{u.role}: {u.text}" for u in self.utterances)


Outcome = Transcript | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """The answer to one analysis task on one call, or why there is none.

    `status` is "ok", "truncated" (a text of the document was cut off, and was again when asked for once more) or
    "failed"; `value_json` is the task's JSON document ("" when failed), `error` one line ("" when ok). A judge's
    answer is the insight of a task named as the judge, {"reason": ..., "score": 1 to 5}. `prompt_version` reads
    NAME/vN, or names the prompt as the spec does; `prompt_hash` is the hash of its file's content. Tokens are those of
    all attempts, of which `num_broken` broke the schema; the notes taken on a long call count with its first task.
    """

    call_id: str
    task: str
    status: str
    value_json: str
    error: str
    model: str
    prompt_version: str
    prompt_hash: str
    prompt_tokens: int
    completion_tokens: int
    num_broken: int = 0
    metadata: Metadata = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether there is a document, whole or truncated."""
        return self.status != "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvent:
    """One stage of one partition, done: what progress bars and the report's timeline are drawn from.

    `stage` is etl, asr, redact or analyse; times are Unix seconds; `audio_s` is the calls' full duration, `speech_s`
    what is left after VAD; `worker` names the process that did it.
    """

    partition_id: str
    stage: str
    start_unix_s: float
    end_unix_s: float
    num_calls: int
    num_failed: int
    audio_s: float
    speech_s: float
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUp:
    """How long one engine took to come up: ray, spark, or the first actor of a stage; Unix seconds.

    `ui_url` is where its own web pages are while it runs, if it has any.
    """

    phase: str
    start_unix_s: float
    end_unix_s: float
    ui_url: str = ""

    @property
    def duration_s(self) -> float:
        return self.end_unix_s - self.start_unix_s


# ---------------------------------------------------------------------------------------------------------- schemas

_SPAN = pa.struct([("channel", pa.int16()), ("start_sample", pa.int64()), ("num_samples", pa.int64())])
_FAILURE = pa.struct([("code", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
_WORD = pa.struct(
    [("text", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("probability", pa.float32())]
)
_UTTERANCE = pa.struct(
    [
        ("channel", pa.int16()),
        ("role", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("avg_logprob", pa.float32()),
        ("no_speech_prob", pa.float32()),
        ("words", pa.list_(_WORD)),
        ("repetition_cut", pa.bool_()),
    ]
)
_REDACTION = pa.struct(
    [
        ("entity", pa.string()),
        ("placeholder", pa.string()),
        ("channel", pa.int16()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("recogniser", pa.string()),
        ("score", pa.float32()),
    ]
)
_STRINGS = pa.list_(pa.string())
_CALL_METADATA = pa.field("metadata", pa.map_(pa.string(), pa.string()))
_DUPLICATE_OF = pa.field("duplicate_of", pa.string())  # null in all but duplicates
_METADATA: dict[bytes | str, bytes | str] = {"schema_version": str(SCHEMA_VERSION)}

AUDIO_SCHEMA = pa.schema(
    [
        pa.field("call_id", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("sample_rate_hz", pa.int32()),
        pa.field("num_channels", pa.int16()),
        pa.field("spans", pa.list_(_SPAN)),
        pa.field("pcm", pa.binary()),  # Spark's BinaryType; a partition is far below its 2 GiB
        pa.field("pcm_coding", pa.string()),  # see _coded
        pa.field("roles", pa.string()),  # JSON, see _AS_JSON
        pa.field("language", pa.string()),
        pa.field("missing_roles", pa.string()),
        pa.field("metadata", pa.string()),
        _DUPLICATE_OF,
        pa.field("failure", _FAILURE),  # null where the call has audio
    ]
)
"""One row per call of a partition, as Spark writes it and the ASR actor reads it."""

_AS_JSON = ("roles", "missing_roles", "metadata")
"""Columns of AUDIO_SCHEMA that are JSON texts: Java's Arrow leaves out the offsets of lists of strings that are all
empty, and Ray's serialiser refuses arrays without them."""

TRANSCRIPT_SCHEMA = pa.schema(
    [
        pa.field("call_id", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("speech_s", pa.float64()),
        pa.field("num_channels", pa.int16()),
        pa.field("language", pa.string()),
        pa.field("asr_model", pa.string()),
        pa.field("redacted", pa.bool_()),
        pa.field("utterances", pa.list_(_UTTERANCE)),
        pa.field("redactions", pa.list_(_REDACTION)),
        pa.field("missing_roles", _STRINGS),
        _CALL_METADATA,
        _DUPLICATE_OF,
    ],
    metadata=_METADATA,
)

FAILURE_SCHEMA = pa.schema(
    [pa.field("call_id", pa.string()), pa.field("uri", pa.string()), *_FAILURE, _CALL_METADATA, _DUPLICATE_OF],
    metadata=_METADATA,
)

INSIGHT_SCHEMA = pa.schema(
    [
        ("call_id", pa.string()),
        ("task", pa.string()),
        ("status", pa.string()),
        ("value_json", pa.string()),
        ("error", pa.string()),
        ("model", pa.string()),
        ("prompt_version", pa.string()),
        ("prompt_hash", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("num_broken", pa.int16()),
        _CALL_METADATA,
    ],
    metadata=_METADATA,
)

OUTCOME_SCHEMA = pa.schema([*TRANSCRIPT_SCHEMA, pa.field("failure", _FAILURE)])
"""One row per call between ASR and the sink: a transcript, or a failure with the transcript's columns null."""


# ------------------------------------------------------------------------------------------------------- conversions


def audio_to_table(rows: Sequence[CallAudio | Failure]) -> pa.Table:
    """One partition's rows under AUDIO_SCHEMA, in the order given."""
    return pa.Table.from_pylist([_audio_document(row) for row in rows], schema=AUDIO_SCHEMA)


def table_to_audio(table: pa.Table) -> list[CallAudio | Failure]:
    """Inverse of `audio_to_table`."""
    return [_audio_row(row) for row in _rows(table)]


def outcomes_to_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """One partition's outcomes under OUTCOME_SCHEMA, in the order given."""
    return pa.Table.from_pylist([_with_failure(outcome) for outcome in outcomes], schema=OUTCOME_SCHEMA)


def table_to_outcomes(table: pa.Table) -> list[Outcome]:
    """Inverse of `outcomes_to_table`."""
    return [_outcome_row(row) for row in _rows(table)]


def transcripts_to_table(transcripts: Sequence[Transcript]) -> pa.Table:
    return pa.Table.from_pylist([asdict(t) for t in transcripts], schema=TRANSCRIPT_SCHEMA)


def table_to_transcripts(table: pa.Table) -> list[Transcript]:
    return [_transcript_row(row) for row in _rows(table)]


def failures_to_table(failures: Sequence[Failure]) -> pa.Table:
    return pa.Table.from_pylist([asdict(f) for f in failures], schema=FAILURE_SCHEMA)


def table_to_failures(table: pa.Table) -> list[Failure]:
    return [Failure(**row) for row in _rows(table)]


def insights_to_table(insights: Sequence[Insight]) -> pa.Table:
    return pa.Table.from_pylist([asdict(i) for i in insights], schema=INSIGHT_SCHEMA)


def table_to_insights(table: pa.Table) -> list[Insight]:
    return [Insight(**row) for row in _rows(table)]


def failed(call: Call | CallAudio | Outcome, *, code: str, stage: str, reason: str) -> Failure:
    """The call's Failure; what has become of the call so far says what it is called."""
    uri = call.source if isinstance(call, Call) else call.uri
    return Failure(
        call_id=call.call_id,
        uri=uri,
        code=code,
        stage=stage,
        reason=reason,
        metadata=dict(call.metadata),
        duplicate_of=None if isinstance(call, Call) else call.duplicate_of,
    )


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist(maps_as_pydicts="strict")


_WHOSE = ("call_id", "uri", "metadata", "duplicate_of")
"""What a failure has in common with the rows it stands among."""


def _with_failure(row: CallAudio | Outcome) -> dict[str, object]:
    if isinstance(row, Failure):
        whose = {name: getattr(row, name) for name in _WHOSE}
        return {**whose, "failure": {"code": row.code, "stage": row.stage, "reason": row.reason}}
    return {**asdict(row), "failure": None}


def _failure_row(row: dict[str, Any]) -> Failure | None:
    failure = row.pop("failure")
    if failure is None:
        return None
    return Failure(**{name: row[name] for name in _WHOSE}, **failure)


def _audio_document(row: CallAudio | Failure) -> dict[str, object]:
    document = _with_failure(row)
    if isinstance(row, CallAudio):
        document |= _coded(row.pcm)
    return {**document, **{name: json.dumps(document[name]) for name in _AS_JSON if name in document}}


def _audio_row(row: dict[str, Any]) -> CallAudio | Failure:
    row = {**row, **{name: json.loads(row[name]) for name in _AS_JSON if row[name]}}
    failure = _failure_row(row)
    if failure is not None:
        return failure
    if coding := row.pop("pcm_coding"):
        row["pcm"] = g711.decode(coding, row["pcm"]).astype("<i2", copy=False).tobytes()
    lists = {"roles": tuple(row["roles"]), "missing_roles": tuple(row["missing_roles"])}
    return CallAudio(**{**row, **lists, "spans": tuple(Span(**span) for span in row["spans"])})


def _coded(pcm: bytes) -> dict[str, object]:
    """Samples as they travel: those of G.711 in its eight bits, which lose nothing and are half to copy and store."""
    encoded = g711.encode_exactly(np.frombuffer(pcm, "<i2"))
    if encoded is None:
        return {"pcm": pcm, "pcm_coding": ""}
    coding, codes = encoded
    return {"pcm": codes.tobytes(), "pcm_coding": coding}


def _outcome_row(row: dict[str, Any]) -> Outcome:
    return _failure_row(row) or _transcript_row(row)


def _transcript_row(row: dict[str, Any]) -> Transcript:
    utterances = tuple(
        Utterance(**{**u, "words": tuple(Word(**word) for word in u["words"])}) for u in row["utterances"]
    )
    redactions = tuple(Redaction(**r) for r in row["redactions"])
    missing_roles = tuple(row["missing_roles"])
    return Transcript(**{**row, "utterances": utterances, "redactions": redactions, "missing_roles": missing_roles})
