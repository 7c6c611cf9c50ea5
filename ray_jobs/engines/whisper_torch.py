"""Our own Whisper in torch: batched windows on one device, greedy or beam search, words with times."""

import math
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import Segment, Window, WindowText, WindowWord
from ray_jobs.engines.heap import keep_freed_memory
from ray_jobs.engines.meter import Meter
from ray_jobs.engines.waves import RATE_HZ, num_samples
from ray_jobs.engines.whisper_align import POSITION_S, token_starts
from ray_jobs.engines.whisper_beam import beam_search
from ray_jobs.engines.whisper_decode import Decoded, decode
from ray_jobs.engines.whisper_features import LogMel
from ray_jobs.engines.whisper_graphs import GraphDecoder, Step
from ray_jobs.engines.whisper_model import Decoder, Encoder
from ray_jobs.engines.whisper_scores import MAX_LENGTH, Scorer
from ray_jobs.engines.whisper_timestamps import TimedTokens, cut
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import load_checkpoint
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
_TRIES_AT_ONCE = 16
"""Texts that may be sampled together, at several temperatures where few windows are poor: a step of so few rows takes
little longer than that of one, and a window that fails at all temperatures would hold up its batch five times."""
_DEFAULT_BATCH = 32
"""A step reads all weights, however few its rows: on two cores a window costs 2.4 ms a token here, of nine 4."""

_ENCODER_BATCHES = {"cpu": 4, "cuda": 16}  # windows: what the caches hold, and what fills the multiprocessors
_COUNTS = ("num_retries", "num_batches_halved")
_PARTS = ("front_end_s", "encoder_s", "decoder_s", "words_s")
_MAX_CPU_WORKERS = 8
_GPU_WORKERS = 2
_PROBE_WINDOWS = 4
_MAX_GPU_BATCH = 256
_MEMORY_SHARE = 0.7  # of a GPU's free memory that batches may take; the rest is for what the probe did not meet
_POSITION_SAMPLES = round(POSITION_S * RATE_HZ)


class WhisperTorch:
    """An AsrEngine of ours, on the first GPU or on the CPU.

    A text that loops or is unlikely is sampled again at rising temperatures; what the model itself takes for
    silence is dropped, repeated phrases are cut. On a CPU each core works on a batch of its own: a decoder's products
    are too small to be shared between cores, which would wait for each other at every one of them. On a GPU two
    batches are under way, each on a stream of its own: while one's host side works, the other keeps the GPU busy. A
    batch that does not fit the memory is halved, and so are those that follow.
    """

    def __init__(self, spec: AsrSpec, num_threads: int) -> None:
        """Load and warm up. Raises ModelError."""
        began = time.monotonic()
        self.model_name = spec.model
        self._num_beams, self._timestamps = spec.beam_size, spec.timestamps
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = _choose_dtype(spec.compute_type, device)
        self._num_workers = _GPU_WORKERS if device.type == "cuda" else min(num_threads, _MAX_CPU_WORKERS)
        if device.type == "cpu":
            keep_freed_memory()
        # Each thread keeps its own count, and a new one starts with all cores.
        torch.set_num_threads(max(1, num_threads // _MAX_CPU_WORKERS))
        self._workers = ThreadPoolExecutor(
            self._num_workers, "whisper", _prepare_worker, (device, torch.get_num_threads())
        )
        folder = weights.resolve(spec.model, "whisper_torch")
        checkpoint = load_checkpoint(folder)
        self._vocabulary = Vocabulary(folder, checkpoint.config.vocab_size)
        if spec.language is not None:
            self._check_language(spec.language)
        self._log_mel = LogMel(checkpoint.config.num_mels, device)
        self._encoder = Encoder(checkpoint, device, dtype)
        self._encoder_batch = _ENCODER_BATCHES[device.type]
        self._decoder = Decoder(checkpoint, device, dtype)
        self._new_scorer = partial(
            Scorer,
            vocabulary=self._vocabulary,
            suppressed=checkpoint.suppressed,
            suppressed_first=checkpoint.suppressed_first,
            timestamps=spec.timestamps,
        )
        self._use([self._decoder] * self._num_workers)
        if device.type == "cuda":
            torch.cuda.synchronize()  # the workers' streams do not wait for the one that brought the weights
        self._meter = Meter(0.0, *_COUNTS, *_PARTS)
        self._batch_size = spec.batch_size or _DEFAULT_BATCH
        silence = Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language=spec.language)
        self.transcribe([silence])
        if device.type == "cuda" and spec.batch_size is None:
            self._batch_size = self._measure_batch_size(silence)
        if device.type == "cuda" and spec.cuda_graphs:
            self._record_steps()
        self._meter = Meter(time.monotonic() - began, *_COUNTS, *_PARTS)

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        with self._meter.at_work():
            batches = self._batches(windows)
            work = self._workers.map(lambda batch: self._transcribe_fitting([windows[i] for i in batch]), batches)
            texts: dict[int, WindowText] = {}
            for batch, batch_texts in zip(batches, work, strict=True):
                texts.update(zip(batch, batch_texts, strict=True))
        self._meter.add_windows(windows)
        return [texts[i] for i in range(len(windows))]

    def stats(self) -> dict[str, float]:
        """As in the protocol, and num_retries, num_batches_halved.

        And where the workers' time went: front_end_s, encoder_s, decoder_s, words_s (as seen from the host).
        """
        return self._meter.read()

    def _batches(self, windows: Sequence[Window]) -> list[list[int]]:
        """Indices of windows of like length, whose texts are of like length too; the longest batch first."""
        order = sorted(range(len(windows)), key=lambda i: num_samples(windows[i]), reverse=True)
        rounds = math.ceil(len(order) / (self._batch_size * self._num_workers))
        size = max(1, math.ceil(len(order) / max(1, rounds * self._num_workers)))
        return [order[first : first + size] for first in range(0, len(order), size)]

    def _transcribe_fitting(self, windows: Sequence[Window]) -> list[WindowText]:
        """Texts of a batch, in parts where the device's memory does not hold it."""
        if len(windows) > self._batch_size:  # another batch has found meanwhile that so many do not fit
            return self._transcribe_halves(windows)
        try:
            return self._transcribe_batch(windows)
        except torch.OutOfMemoryError:
            if len(windows) == 1:
                raise
        self._meter.add(num_batches_halved=1)
        self._batch_size = min(self._batch_size, math.ceil(len(windows) / 2))
        # Out of the handler: until there, the exception's frames keep the tensors that did not fit.
        torch.cuda.empty_cache()
        return self._transcribe_halves(windows)

    def _transcribe_halves(self, windows: Sequence[Window]) -> list[WindowText]:
        middle = math.ceil(len(windows) / 2)
        return self._transcribe_fitting(windows[:middle]) + self._transcribe_fitting(windows[middle:])

    def _measure_batch_size(self, window: Window) -> int:
        """Windows per batch that the card holds, from what a few of them take while they are read."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self._workers.submit(self._transcribe_batch, [window] * _PROBE_WINDOWS).result()
        bytes_per_window = (torch.cuda.max_memory_allocated() - before) / _PROBE_WINDOWS
        torch.cuda.empty_cache()
        free_bytes, _ = torch.cuda.mem_get_info()
        num_fitting = int(_MEMORY_SHARE * free_bytes / bytes_per_window / self._num_workers)
        return min(max(1, num_fitting), _MAX_GPU_BATCH)

    def _record_steps(self, record: Callable[[Step], Step] | None = None) -> None:
        """Let each worker replay its decoder's steps; with smaller batches where their caches do not fit the card."""
        try:
            decoders = [
                GraphDecoder(self._decoder, self._batch_size, MAX_LENGTH, record) for _ in range(self._num_workers)
            ]
        except torch.OutOfMemoryError:
            if self._batch_size == 1:
                raise
        else:
            self._use(decoders)
            return
        self._batch_size = math.ceil(self._batch_size / 2)
        torch.cuda.empty_cache()
        self._record_steps(record)

    def _use(self, decoders: Sequence[Decoder | GraphDecoder]) -> None:
        """Give each worker one of these."""
        self._scorers: SimpleQueue[Scorer] = SimpleQueue()
        for decoder in decoders:
            self._scorers.put(self._new_scorer(decoder))

    @contextmanager
    def _borrowed_scorer(self) -> Iterator[Scorer]:
        scorer = self._scorers.get()
        try:
            yield scorer
        finally:
            self._scorers.put(scorer)

    @torch.inference_mode()
    def _transcribe_batch(self, windows: Sequence[Window]) -> list[WindowText]:
        clock = _Clock()
        log_mel = self._log_mel(windows)
        clock.lap("front_end_s")
        audio = torch.cat([self._encoder(part) for part in torch.split(log_mel, self._encoder_batch)])
        clock.lap("encoder_s")
        with self._borrowed_scorer() as scorer:
            languages = self._languages(scorer, windows, audio)
            decoded = self._decode(scorer, windows, audio, [language for language, _ in languages])
        clock.lap("decoder_s")
        texts = self._read(windows, decoded, languages)
        clock.lap("words_s")
        self._meter.add(num_tokens=sum(len(window.tokens) for window in decoded), **clock.laps_s)
        return texts

    def _languages(self, scorer: Scorer, windows: Sequence[Window], audio: Tensor) -> list[tuple[str, float]]:
        """Each window's language and its probability."""
        given = [(window.language, 1.0) for window in windows if window.language is not None]
        if len(given) == len(windows):
            return given
        detected = scorer.detect_languages(audio)
        return [
            (window.language, 1.0) if window.language is not None else guess
            for window, guess in zip(windows, detected, strict=True)
        ]

    def _decode(
        self, scorer: Scorer, windows: Sequence[Window], audio: Tensor, languages: Sequence[str]
    ) -> list[Decoded]:
        """The windows' tokens; a poor text is replaced by the first good one sampled at rising temperatures.

        Where none is good it is the likeliest of all, one without loops if there is one.
        """
        if self._num_beams > 1:
            decoded = beam_search(scorer, audio, languages, self._num_beams)
        else:
            decoded = decode(scorer, audio, languages)
        tried: dict[int, list[Decoded]] = defaultdict(list)
        temperatures: Sequence[float] = _FALLBACK_TEMPERATURES
        while temperatures and (poor := [i for i, window in enumerate(decoded) if window.is_poor(self._vocabulary)]):
            num_next = max(1, _TRIES_AT_ONCE // len(poor))
            tries = self._try_again(scorer, windows, audio, languages, poor, temperatures[:num_next])
            temperatures = temperatures[num_next:]
            for i, attempts in zip(poor, tries, strict=True):
                tried[i] += [decoded[i], *attempts]
                decoded[i] = next(
                    (attempt for attempt in attempts if not attempt.is_poor(self._vocabulary)), attempts[-1]
                )
        for i, attempts in tried.items():
            if decoded[i].is_poor(self._vocabulary):
                decoded[i] = max(attempts, key=self._merit)
        return decoded

    def _try_again(
        self,
        scorer: Scorer,
        windows: Sequence[Window],
        audio: Tensor,
        languages: Sequence[str],
        poor: Sequence[int],
        temperatures: Sequence[float],
    ) -> list[list[Decoded]]:
        """For each window of `poor` a sampled text per temperature."""
        rows = [i for i in poor for _ in temperatures]
        self._meter.add(num_retries=len(rows))
        seeds = [zlib.crc32(windows[i].pcm.tobytes()) for i in rows]
        tries = decode(scorer, audio[rows], [languages[i] for i in rows], [*temperatures] * len(poor), seeds)
        size = len(temperatures)
        return [tries[first : first + size] for first in range(0, len(tries), size)]

    def _merit(self, window: Decoded) -> tuple[bool, float]:
        return not window.is_looping(self._vocabulary), window.avg_logprob

    def _read(
        self, windows: Sequence[Window], decoded: Sequence[Decoded], languages: Sequence[tuple[str, float]]
    ) -> list[WindowText]:
        """Tokens as words with times."""
        windows_s = [num_samples(window) / RATE_HZ for window in windows]
        num_positions = [max(1, math.ceil(num_samples(window) / _POSITION_SAMPLES)) for window in windows]
        starts = token_starts([window.attention for window in decoded], num_positions)
        return [
            WindowText(
                language=language, language_prob=prob, segments=tuple(self._segments(result, language, at, window_s))
            )
            for result, (language, prob), at, window_s in zip(decoded, languages, starts, windows_s, strict=True)
        ]

    def _segments(self, decoded: Decoded, language: str, starts: Sequence[int], window_s: float) -> Iterator[Segment]:
        """A window's segments; none where it is silent. `starts` has a position per token, and the end's."""
        if text.is_invented(decoded.avg_logprob, decoded.no_speech_prob):
            return
        parts = list(cut(decoded.tokens, self._vocabulary.timestamps.start, window_s))
        words = [(part, word) for part in parts for word in self._words(decoded, part, language, starts, window_s)]
        kept = text.without_loops([word.text for _, word in words])
        self._meter.add(num_loops_cut=len(kept) < len(words))
        for part, group in groupby((words[i] for i in kept), key=lambda pair: pair[0]):
            spoken = tuple(word for _, word in group)
            yield Segment(
                text=text.join_words([word.text for word in spoken], language),
                start_s=part.start_s if self._timestamps else spoken[0].start_s,
                end_s=part.end_s if self._timestamps else spoken[-1].end_s,
                avg_logprob=decoded.avg_logprob,
                no_speech_prob=decoded.no_speech_prob,
                words=spoken,
                repetition_cut=len(kept) < len(words),
            )

    def _words(
        self, decoded: Decoded, part: TimedTokens, language: str, starts: Sequence[int], window_s: float
    ) -> list[WindowWord]:
        pieces = list(self._vocabulary.iter_pieces(decoded.tokens[part.start : part.end]))
        positions = np.array(starts[part.start : part.end + 1])
        return timed_words(
            [piece for piece, _ in pieces],
            [num_tokens for _, num_tokens in pieces],
            np.stack([np.arange(len(positions)), positions], axis=1),
            np.exp(decoded.token_logprobs[part.start : part.end]),
            window_s,
            spaced=language not in text.UNSPACED_LANGUAGES,
        )

    def _check_language(self, language: str) -> None:
        known = list(self._vocabulary.languages) or ["en"]
        if language not in known:
            raise ModelError(f"asr.language {language}: model {self.model_name} knows {', '.join(known)}")


class _Clock:
    """Time by part of the work."""

    def __init__(self) -> None:
        self.laps_s: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Put the time since the last lap under `name`."""
        now = time.monotonic()
        self.laps_s[name], self._last = now - self._last, now


def _choose_dtype(compute_type: str, device: torch.device) -> torch.dtype:
    """The dtype of a compute type; "auto" takes what the device multiplies fast."""
    if compute_type != "auto":
        return _DTYPES[compute_type]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32


def _prepare_worker(device: torch.device, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))
