"""Our own Whisper in torch: batched windows on one device, greedy decoding, words with times."""

import math
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import Segment, Window, WindowText, WindowWord
from ray_jobs.engines.whisper_align import POSITION_S, token_starts
from ray_jobs.engines.whisper_decode import Decoded, WhisperDecoder
from ray_jobs.engines.whisper_features import RATE_HZ, LogMel, num_samples
from ray_jobs.engines.whisper_model import Decoder, Encoder
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import load_checkpoint
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError, SpecError
from ray_jobs.spec import AsrSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
_ENCODER_BATCH = 4
_STATS = ("num_windows", "num_tokens", "num_retries", "num_loops_cut", "audio_s", "busy_s")
_PARTS = ("front_end_s", "encoder_s", "decoder_s", "words_s")
_MAX_WORKERS = 8
_POSITION_SAMPLES = round(POSITION_S * RATE_HZ)


class WhisperTorch:
    """An AsrEngine of ours, on the first GPU or on the CPU.

    A text that repeats itself or is unlikely is sampled again at rising temperatures; what the model itself takes for
    silence is dropped, repeated phrases are cut. On a CPU each core works on a batch of its own: a decoder's products
    are too small to be shared between cores, which would wait for each other at every one of them.
    """

    def __init__(self, spec: AsrSpec, num_threads: int) -> None:
        """Load and warm up. Raises ModelError or SpecError."""
        began = time.monotonic()
        if spec.beam_size != 1:
            raise SpecError(f"asr.beam_size {spec.beam_size}: whisper_torch decodes greedily; set 1, or faster_whisper")
        self.model_name = spec.model
        self._batch_size = spec.batch_size
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = _choose_dtype(spec.compute_type, device)
        self._num_workers = 1 if device.type == "cuda" else min(num_threads, _MAX_WORKERS)
        # Each thread keeps its own count, and a new one starts with all cores.
        torch.set_num_threads(max(1, num_threads // _MAX_WORKERS))
        self._workers = ThreadPoolExecutor(
            self._num_workers, "whisper", torch.set_num_threads, (torch.get_num_threads(),)
        )
        folder = weights.resolve(spec.model, "whisper_torch")
        checkpoint = load_checkpoint(folder)
        self._vocabulary = Vocabulary(folder, checkpoint.config.vocab_size)
        if spec.language is not None:
            self._check_language(spec.language)
        self._log_mel = LogMel(checkpoint.config.num_mels, device)
        self._encoder = Encoder(checkpoint, device, dtype)
        decoder = Decoder(checkpoint, device, dtype)
        self._decoder = WhisperDecoder(decoder, self._vocabulary, checkpoint.suppressed, checkpoint.suppressed_first)
        self._stats = dict.fromkeys((*_STATS, *_PARTS), 0.0)
        self.transcribe([Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language=spec.language)])
        self._stats = {**dict.fromkeys(self._stats, 0.0), "load_s": time.monotonic() - began}

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        began = time.monotonic()
        batches = self._batches(windows)
        texts: dict[int, WindowText] = {}
        work = self._workers.map(lambda batch: self._transcribe_batch([windows[i] for i in batch]), batches)
        for batch, (batch_texts, counts) in zip(batches, work, strict=True):
            texts.update(zip(batch, batch_texts, strict=True))
            self._count(counts)
        audio_s = sum(len(window.pcm) / window.sample_rate_hz for window in windows)
        self._count({"num_windows": len(windows), "audio_s": audio_s, "busy_s": time.monotonic() - began})
        return [texts[i] for i in range(len(windows))]

    def stats(self) -> dict[str, float]:
        """num_windows, num_tokens, num_retries, num_loops_cut, audio_s, busy_s and load_s.

        And where the workers' time went: front_end_s, encoder_s, decoder_s, words_s (as seen from the host).
        """
        return dict(self._stats)

    def _count(self, counts: Mapping[str, float]) -> None:
        for name, count in counts.items():
            self._stats[name] += count

    def _batches(self, windows: Sequence[Window]) -> list[list[int]]:
        """Indices of windows of like length, whose texts are of like length too; the longest batch first."""
        order = sorted(range(len(windows)), key=lambda i: num_samples(windows[i]), reverse=True)
        rounds = math.ceil(len(order) / (self._batch_size * self._num_workers))
        size = max(1, math.ceil(len(order) / max(1, rounds * self._num_workers)))
        return [order[first : first + size] for first in range(0, len(order), size)]

    @torch.inference_mode()
    def _transcribe_batch(self, windows: Sequence[Window]) -> tuple[list[WindowText], dict[str, float]]:
        """Texts of a batch, and what they add to the stats."""
        clock = _Clock()
        log_mel = self._log_mel(windows)
        clock.lap("front_end_s")
        audio = torch.cat([self._encoder(part) for part in torch.split(log_mel, _ENCODER_BATCH)])
        clock.lap("encoder_s")
        languages = self._languages(windows, audio)
        decoded = self._decoder.decode(audio, languages)
        num_retries = self._retry(decoded, windows, audio, languages)
        clock.lap("decoder_s")
        texts, num_loops_cut = self._read(windows, decoded, languages)
        clock.lap("words_s")
        num_tokens = sum(len(window.tokens) for window in decoded)
        counts = {"num_tokens": num_tokens, "num_retries": num_retries, "num_loops_cut": num_loops_cut}
        return texts, counts | clock.laps_s

    def _languages(self, windows: Sequence[Window], audio: Tensor) -> list[str]:
        given = [window.language for window in windows]
        detected = self._decoder.detect_languages(audio) if None in given else given
        return [language or guess or "en" for language, guess in zip(given, detected, strict=True)]

    def _retry(self, decoded: list[Decoded], windows: Sequence[Window], audio: Tensor, languages: Sequence[str]) -> int:
        """Replace poor texts by ones sampled at rising temperatures. Returns the number of tries."""
        num_retries = 0
        for temperature in _FALLBACK_TEMPERATURES:
            poor = [i for i, window in enumerate(decoded) if window.is_poor(self._vocabulary)]
            if not poor:
                break
            num_retries += len(poor)
            seeds = [zlib.crc32(windows[i].pcm.tobytes()) for i in poor]
            tries = self._decoder.decode(audio[poor], [languages[i] for i in poor], temperature, seeds)
            for i, attempt in zip(poor, tries, strict=True):
                decoded[i] = attempt
        return num_retries

    def _read(
        self, windows: Sequence[Window], decoded: Sequence[Decoded], languages: Sequence[str]
    ) -> tuple[list[WindowText], int]:
        """Tokens as words with times; also the number of windows in which repeats were cut."""
        num_positions = [max(1, math.ceil(num_samples(window) / _POSITION_SAMPLES)) for window in windows]
        starts = token_starts([window.attention for window in decoded], num_positions)
        texts: list[WindowText] = []
        num_loops_cut = 0
        for window, result, language, window_starts in zip(windows, decoded, languages, starts, strict=True):
            words = self._words(result, language, window_starts, num_samples(window) / RATE_HZ)
            kept = text.without_loops([word.text for word in words])
            num_loops_cut += len(kept) < len(words)
            texts.append(_window_text(result, language, [words[i] for i in kept]))
        return texts, num_loops_cut

    def _words(self, decoded: Decoded, language: str, starts: Sequence[int], window_s: float) -> list[WindowWord]:
        pieces = list(self._vocabulary.iter_pieces(decoded.tokens))
        return timed_words(
            [piece for piece, _ in pieces],
            [num_tokens for _, num_tokens in pieces],
            np.stack([np.arange(len(starts)), np.array(starts)], axis=1),
            np.exp(decoded.token_logprobs),
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
    if compute_type in _DTYPES:
        return _DTYPES[compute_type]
    if compute_type != "auto":
        raise SpecError(f"asr.compute_type {compute_type}: whisper_torch takes auto, {', '.join(_DTYPES)}")
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32


def _window_text(decoded: Decoded, language: str, words: Sequence[WindowWord]) -> WindowText:
    """One segment, or none where the window is silent."""
    if not words or text.is_invented(decoded.avg_logprob, decoded.no_speech_prob):
        return WindowText(language=language, segments=())
    segment = Segment(
        text=text.join_words([word.text for word in words], language),
        start_s=words[0].start_s,
        end_s=words[-1].end_s,
        avg_logprob=decoded.avg_logprob,
        no_speech_prob=decoded.no_speech_prob,
        words=tuple(words),
    )
    return WindowText(language=language, segments=(segment,))
