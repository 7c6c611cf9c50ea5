"""One partition's calls: fetch, decode, find speech, keep only that. Plain Python; Spark calls it.

A call is read and decoded in blocks and treated in sections, and the speech of many calls' sections is sought at once:
what is in memory is one batch of sections, and the speech found so far. Recordings of one size are hashed before they
are decoded: one whose bytes another call's has is not decoded again.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from ray_jobs.errors import CallError
from ray_jobs.records import Call, CallAudio, Failure, Part, Span, failed
from ray_jobs.spec import EtlSpec, VadSpec
from spark_etl.crosstalk import suppress_crosstalk
from spark_etl.decode import Block
from spark_etl.helper import Decoder
from spark_etl.parts import Blocks, side_by_side
from spark_etl.recording import Recording
from spark_etl.segment import Section, cut_sections, find_stretches
from spark_etl.vad import speech_probabilities

Reader = Callable[[Part, str], Recording]

BATCH_BYTES = 64 << 20
"""Decoded audio in which speech is sought at once."""


class _Speech:
    """What has been found of one call."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.sample_rate_hz = 0
        self.num_channels = 0
        self.num_samples = 0
        self.found: list[tuple[Span, bytes]] = []
        self._part_channels = [0] * len(call.files)

    @contextmanager
    def opened(self, read: Reader) -> Iterator[list[Recording]]:
        """The call's parts, open."""
        with ExitStack() as stack:
            yield [stack.enter_context(read(part, self._shown(part))) for part in self.call.files]

    def blocks(self, decoders: Sequence[Decoder], recordings: Sequence[Recording]) -> Iterator[Block]:
        """The call's audio, all parts side by side."""
        parts = [self._part(index, decoders[index], recording) for index, recording in enumerate(recordings)]
        yield from parts[0] if len(parts) == 1 else side_by_side(parts)
        for recording in recordings:
            recording.check_unchanged()

    def _part(self, index: int, decoder: Decoder, recording: Recording) -> Blocks:
        part = self.call.files[index]
        try:
            for block in decoder.decode(recording, part.raw):
                self._part_channels[index] = len(block.pcm)
                yield block
        except CallError as error:
            whose = f"{self._shown(part)}: " if len(self.call.files) > 1 else ""
            raise CallError(error.code, whose + error.reason) from None

    def _shown(self, part: Part) -> str:
        """What a reason may call a part: its URI may be personal."""
        if len(self.call.files) == 1:
            return self.call.source
        return f"the file of {part.roles[0]}" if part.roles else "the file of no known party"

    @property
    def roles(self) -> tuple[str, ...]:
        """One per channel, "" where its part does not say; nothing where no part says."""
        return tuple(
            role
            for part, num_channels in zip(self.call.files, self._part_channels, strict=True)
            for role in [*part.roles, *[""] * num_channels][:num_channels]
            if any(part.roles for part in self.call.files)
        )

    def add(self, section: Section, channel: int, start: int, end: int) -> None:
        span = Span(channel=channel, start_sample=section.start_sample + start, num_samples=end - start)
        self.found.append((span, section.pcm[channel, start:end].astype("<i2", copy=False).tobytes()))

    def row(self) -> CallAudio | Failure:
        duration_s = self.num_samples / self.sample_rate_hz
        if not self.found:
            reason = f"no speech in {duration_s:.1f} s of {self.num_channels}-channel audio"
            return _failure(self.call, CallError("no_speech", reason))
        found, self.found = sorted(self.found, key=lambda found: (found[0].channel, found[0].start_sample)), []
        return CallAudio(
            call_id=self.call.call_id,
            uri=self.call.source,
            duration_s=duration_s,
            sample_rate_hz=self.sample_rate_hz,
            num_channels=self.num_channels,
            spans=tuple(span for span, _ in found),
            pcm=b"".join(samples for _, samples in found),
            roles=self.roles,
            language=self.call.language,
            missing_roles=self.call.missing_roles,
            metadata=self.call.metadata,
        )


@dataclass(frozen=True, slots=True)
class _Duplicate:
    """A call whose recording is that of a call before it."""

    call: Call
    original_id: str

    def row(self, original: CallAudio | Failure) -> CallAudio | Failure:
        if isinstance(original, Failure):
            failure = failed(self.call, code=original.code, stage=original.stage, reason=original.reason)
            return replace(failure, duplicate_of=self.original_id)
        return replace(
            original,
            call_id=self.call.call_id,
            uri=self.call.source,
            spans=(),
            pcm=b"",
            missing_roles=self.call.missing_roles,
            metadata=self.call.metadata,
            duplicate_of=self.original_id,
        )


def prepare_partition(calls: Sequence[Call], etl: EtlSpec, read: Reader) -> list[CallAudio | Failure]:
    """One row per call, in order: its speech, or a Failure of stage etl that says why there is none.

    `read` opens a part, which a reason may call by the name given with it, or raises CallError. One silent channel is
    no failure; a call without speech on any is `no_speech`. A call whose recording an earlier one has is its duplicate.
    """
    outcomes: list[_Speech | Failure | _Duplicate] = []
    originals: dict[object, str] = {}
    num_of_size = Counter(call.size_bytes for call in calls)
    batch: list[tuple[_Speech, Section]] = []
    with ExitStack() as stack:
        decoders = _decoders(stack, etl, max((len(call.files) for call in calls), default=0))
        for call in calls:
            speech = _Speech(call)
            try:
                with speech.opened(read) as recordings:
                    content = _content(call, recordings) if num_of_size[call.size_bytes] > 1 else call.call_id
                    if content in originals:
                        outcomes.append(_Duplicate(call, originals[content]))
                        continue
                    for section in cut_sections(speech.blocks(decoders, recordings)):
                        speech.sample_rate_hz = section.sample_rate_hz
                        speech.num_channels, num_samples = section.pcm.shape
                        speech.num_samples += num_samples
                        batch.append((speech, section))
                        if sum(section.pcm.nbytes for _, section in batch) >= BATCH_BYTES:
                            _find_speech(batch, etl.vad)
                            batch.clear()
                outcomes.append(speech)
                originals[content] = call.call_id  # only now: where this one fails, the next is tried by itself
            except CallError as error:
                outcomes.append(_failure(call, error))
    _find_speech(batch, etl.vad)
    rows: dict[str, CallAudio | Failure] = {}
    for outcome in outcomes:
        match outcome:
            case _Speech():
                rows[outcome.call.call_id] = outcome.row()
            case _Duplicate():
                rows[outcome.call.call_id] = outcome.row(rows[outcome.original_id])
            case Failure():
                rows[outcome.call_id] = outcome
    return list(rows.values())


def read_blocks(call: Call, etl: EtlSpec, read: Reader) -> Generator[Block, None, None]:
    """A call's audio, all its parts side by side, as `prepare_partition` hears it. Raises CallError as `read` does."""
    speech = _Speech(call)
    with ExitStack() as stack:
        decoders = _decoders(stack, etl, len(call.files))
        yield from speech.blocks(decoders, stack.enter_context(speech.opened(read)))


def _decoders(stack: ExitStack, etl: EtlSpec, num_parts: int) -> list[Decoder]:
    """A call's parts are decoded side by side, each by its own; one that is never asked starts nothing."""
    return [stack.enter_context(Decoder(max_s=etl.max_call_s, timeout_s=etl.file_timeout_s)) for _ in range(num_parts)]


def _content(call: Call, recordings: Sequence[Recording]) -> object:
    """Equal for calls whose parts have the same bytes and are read the same way."""
    parts = zip(call.files, recordings, strict=True)
    return call.language, tuple((recording.sha256(), part.raw, part.roles) for part, recording in parts)


def _find_speech(batch: Sequence[tuple[_Speech, Section]], vad: VadSpec) -> None:
    for rate in sorted({section.sample_rate_hz for _, section in batch}):
        sections = [(speech, section) for speech, section in batch if section.sample_rate_hz == rate]
        channels = [samples for _, section in sections for samples in section.pcm]
        probabilities = iter(speech_probabilities(channels, rate))
        for speech, section in sections:
            values = [next(probabilities) for _ in section.pcm]
            values = suppress_crosstalk(section.pcm, values, rate, vad.threshold)
            for channel, samples in enumerate(section.pcm):
                for stretch in find_stretches(values[channel], samples, rate, vad):
                    speech.add(section, channel, stretch.start, stretch.end)


def _failure(call: Call, error: CallError) -> Failure:
    return failed(call, code=error.code, stage="etl", reason=error.reason)
