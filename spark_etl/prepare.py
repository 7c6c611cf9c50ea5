"""One partition's calls: fetch, decode, find speech, keep only that. Plain Python; Spark calls it.

A call is read whole, but decoded in blocks and treated in sections, and the speech of many calls' sections is sought
at once: what is in memory is one recording as it is stored, one batch of sections, and the speech found so far.
"""

from collections.abc import Callable, Sequence

from ray_jobs.errors import CallError
from ray_jobs.records import Call, CallAudio, Failure, Span, failed
from ray_jobs.spec import EtlSpec, VadSpec
from spark_etl.crosstalk import suppress_crosstalk
from spark_etl.decode import Samples
from spark_etl.helper import Decoder
from spark_etl.segment import Section, cut_sections, find_stretches
from spark_etl.vad import speech_probabilities

BATCH_BYTES = 64 << 20
"""Decoded audio in which speech is sought at once."""


class _Speech:
    """What has been found of one call."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.sample_rate_hz = 0
        self.num_channels = 0
        self.num_samples = 0
        self.found: list[tuple[Span, Samples]] = []

    def add(self, section: Section, channel: int, start: int, end: int) -> None:
        span = Span(channel=channel, start_sample=section.start_sample + start, num_samples=end - start)
        self.found.append((span, section.pcm[channel, start:end].copy()))

    def row(self) -> CallAudio | Failure:
        duration_s = self.num_samples / self.sample_rate_hz
        if not self.found:
            reason = f"no speech in {duration_s:.1f} s of {self.num_channels}-channel audio"
            return _failure(self.call, CallError("no_speech", reason))
        self.found.sort(key=lambda found: (found[0].channel, found[0].start_sample))
        return CallAudio(
            call_id=self.call.call_id,
            uri=self.call.source,
            duration_s=duration_s,
            sample_rate_hz=self.sample_rate_hz,
            num_channels=self.num_channels,
            spans=tuple(span for span, _ in self.found),
            pcm=b"".join(samples.astype("<i2", copy=False).tobytes() for _, samples in self.found),
            language=self.call.language,
            missing_roles=self.call.missing_roles,
            metadata=self.call.metadata,
        )


def prepare_partition(calls: Sequence[Call], etl: EtlSpec, read: Callable[[Call], bytes]) -> list[CallAudio | Failure]:
    """One row per call, in order: its speech, or a Failure of stage etl that says why there is none.

    `read` gives a recording's bytes or raises CallError. One silent channel is no failure; a call without speech on
    any is `no_speech`.
    """
    outcomes: list[_Speech | Failure] = []
    batch: list[tuple[_Speech, Section]] = []
    with Decoder(max_s=etl.max_call_s, timeout_s=etl.file_timeout_s) as decoder:
        for call in calls:
            speech = _Speech(call)
            try:
                for section in cut_sections(decoder.decode(read(call))):
                    speech.sample_rate_hz = section.sample_rate_hz
                    speech.num_channels, num_samples = section.pcm.shape
                    speech.num_samples += num_samples
                    batch.append((speech, section))
                    if sum(section.pcm.nbytes for _, section in batch) >= BATCH_BYTES:
                        _find_speech(batch, etl.vad)
                        batch.clear()
                outcomes.append(speech)
            except CallError as error:
                outcomes.append(_failure(call, error))
    _find_speech(batch, etl.vad)
    return [outcome if isinstance(outcome, Failure) else outcome.row() for outcome in outcomes]


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
