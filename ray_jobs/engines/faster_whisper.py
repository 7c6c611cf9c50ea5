"""Whisper on CTranslate2, through faster-whisper's model and tokenizer: batched decoding, words with times."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import MAX_WINDOW_S, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

_RATE_HZ = 16_000
_WINDOW_SAMPLES = int(MAX_WINDOW_S * _RATE_HZ)
_FRAMES_PER_S = 100
_MAX_TOKENS = 224  # half of Whisper's text context, as in the reference decoder: a loop ends here at the latest


@dataclass(slots=True)
class _Decoded:
    """One window's tokens, before they are aligned."""

    tokens: list[int]
    language: str
    avg_logprob: float
    no_speech_prob: float


class FasterWhisper:
    """An AsrEngine on CTranslate2 (int8 on a CPU, float16 on a GPU where the spec leaves it open).

    Windows are padded with silence to 30 s, as Whisper was trained. Text that the model itself takes for silence is
    dropped, repeated phrases are cut.
    """

    def __init__(self, spec: AsrSpec, num_threads: int) -> None:
        """Load and warm up, on the first GPU if there is one. Raises ModelError."""
        began = time.monotonic()
        folder = weights.resolve(spec.model, "faster_whisper")
        _choose_cpu_isa()
        torch.set_num_threads(num_threads)
        self.model_name = spec.model
        self._spec = spec
        self._model = _load(spec, folder, num_threads)
        self._tokenizers: dict[str, Any] = {}
        if spec.language is not None:
            self._check_language(spec.language)
        self._stats = dict.fromkeys(("num_windows", "num_tokens", "num_loops_cut", "audio_s", "busy_s"), 0.0)
        self.transcribe([Window(pcm=np.zeros(_RATE_HZ, np.int16), sample_rate_hz=_RATE_HZ, language="en")])
        self._stats = {**dict.fromkeys(self._stats, 0.0), "load_s": time.monotonic() - began}

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        began = time.monotonic()
        # Windows of like length have texts of like length: a batch decodes for as long as its longest.
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].pcm) / windows[i].sample_rate_hz)
        texts: dict[int, WindowText] = {}
        for first in range(0, len(order), self._spec.batch_size):
            batch = order[first : first + self._spec.batch_size]
            texts.update(zip(batch, self._transcribe_batch([windows[i] for i in batch]), strict=True))
        self._stats["num_windows"] += len(windows)
        self._stats["audio_s"] += sum(len(window.pcm) / window.sample_rate_hz for window in windows)
        self._stats["busy_s"] += time.monotonic() - began
        return [texts[i] for i in range(len(windows))]

    def stats(self) -> dict[str, float]:
        """num_windows, num_tokens, num_loops_cut, audio_s, busy_s, and load_s."""
        return dict(self._stats)

    def _transcribe_batch(self, windows: Sequence[Window]) -> list[WindowText]:
        waves = resample([window.pcm for window in windows], [window.sample_rate_hz for window in windows])
        encoded = self._model.encode(self._features(waves))
        decoded = self._decode(encoded, self._languages(encoded, windows))
        num_frames = [max(2, len(wave) * _FRAMES_PER_S // _RATE_HZ) for wave in waves]  # one encoder position at least
        return list(self._read(encoded, decoded, num_frames))

    def _features(self, waves: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Log-mel spectra, float32, shape (num_windows, num_mels, 3000)."""
        extract = self._model.feature_extractor
        return np.stack([extract(np.pad(wave, (0, _WINDOW_SAMPLES - len(wave))))[:, :-1] for wave in waves])

    def _languages(self, encoded: Any, windows: Sequence[Window]) -> list[str]:
        if not self._model.model.is_multilingual:
            return ["en"] * len(windows)
        given = [window.language for window in windows]
        if None not in given:
            return [language for language in given if language]
        detected = self._model.model.detect_language(encoded)
        # CTranslate2 lists <|en|>-like tokens, the most probable first.
        return [language or ranking[0][0][2:-2] for language, ranking in zip(given, detected, strict=True)]

    def _decode(self, encoded: Any, languages: Sequence[str]) -> list[_Decoded]:
        tokenizers = [self._tokenizer(language) for language in languages]
        prompts = [[*tokenizer.sot_sequence, tokenizer.no_timestamps] for tokenizer in tokenizers]
        results = self._model.model.generate(
            encoded,
            prompts,
            beam_size=self._spec.beam_size,
            max_length=len(prompts[0]) + _MAX_TOKENS,
            suppress_blank=True,
            suppress_tokens=_suppressed(tokenizers[0]),
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [
            _Decoded(
                tokens=[token for token in result.sequences_ids[0] if token < tokenizers[0].eot],
                language=language,
                avg_logprob=result.scores[0] * len(result.sequences_ids[0]) / (len(result.sequences_ids[0]) + 1),
                no_speech_prob=result.no_speech_prob,
            )
            for result, language in zip(results, languages, strict=True)
        ]

    def _read(self, encoded: Any, decoded: Sequence[_Decoded], num_frames: Sequence[int]) -> Iterator[WindowText]:
        """Align the tokens with the audio, and make them words and segments."""
        # One start sequence for the batch: another language's token there moves words by 4 ms on average (measured).
        start = self._tokenizer(decoded[0].language).sot_sequence
        alignments = self._model.model.align(encoded, start, [d.tokens for d in decoded], list(num_frames))
        for window, alignment, frames in zip(decoded, alignments, num_frames, strict=True):
            self._stats["num_tokens"] += len(window.tokens)
            if text.is_invented(window.avg_logprob, window.no_speech_prob):
                words: list[WindowWord] = []
            else:
                words = self._words(window, alignment, frames / _FRAMES_PER_S)
            yield WindowText(language=window.language, segments=_segments(window, words))

    def _words(self, window: _Decoded, alignment: Any, window_s: float) -> list[WindowWord]:
        tokenizer = self._tokenizer(window.language)
        pieces, tokens = tokenizer.split_tokens_on_unicode([*window.tokens, tokenizer.eot])
        words = timed_words(
            pieces[:-1],
            [len(group) for group in tokens[:-1]],
            np.array(alignment.alignments, dtype=np.int64).reshape(-1, 2),
            np.array(alignment.text_token_probs),
            window_s,
            spaced=window.language not in text.UNSPACED_LANGUAGES,
        )
        kept = text.without_loops([word.text for word in words])
        self._stats["num_loops_cut"] += len(kept) < len(words)
        return [words[i] for i in kept]

    def _tokenizer(self, language: str) -> Any:
        if language not in self._tokenizers:
            model = self._model
            self._tokenizers[language] = Tokenizer(
                model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language
            )
        return self._tokenizers[language]

    def _check_language(self, language: str) -> None:
        known = self._model.supported_languages
        if language not in known:
            raise ModelError(f"asr.language {language}: model {self.model_name} knows {', '.join(known)}")


def resample(pcm: Sequence[npt.NDArray[np.int16]], sample_rates_hz: Sequence[int]) -> list[npt.NDArray[np.float32]]:
    """Waves at 16 kHz in [-1, 1], float32, shapes (num_samples,), each at most 30 s; windows of one rate in one go."""
    waves: dict[int, npt.NDArray[np.float32]] = {}
    for rate_hz in set(sample_rates_hz):
        rows = [i for i, other in enumerate(sample_rates_hz) if other == rate_hz]
        padded = torch.zeros(len(rows), max(len(pcm[i]) for i in rows))
        for row, i in enumerate(rows):
            padded[row, : len(pcm[i])] = torch.from_numpy(pcm[i].astype(np.float32) / 32768.0)
        resampled = torchaudio.functional.resample(padded, rate_hz, _RATE_HZ).numpy()
        for row, i in enumerate(rows):
            waves[i] = resampled[row, : min(_WINDOW_SAMPLES, round(len(pcm[i]) * _RATE_HZ / rate_hz))]
    return [waves[i] for i in range(len(pcm))]


def _segments(window: _Decoded, words: Sequence[WindowWord]) -> tuple[Segment, ...]:
    if not words:
        return ()
    return (
        Segment(
            text=text.join_words([word.text for word in words], window.language),
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            avg_logprob=window.avg_logprob,
            no_speech_prob=window.no_speech_prob,
            words=tuple(words),
        ),
    )


def _load(spec: AsrSpec, folder: Path, num_threads: int) -> Any:
    device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    compute_type = spec.compute_type
    if compute_type == "auto":
        compute_type = "float16" if device == "cuda" else "int8"
    try:
        return WhisperModel(str(folder), device=device, compute_type=compute_type, cpu_threads=num_threads)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"model {spec.model}: {' '.join(str(error).split())}") from None


def _choose_cpu_isa() -> None:
    """Let CTranslate2 use AVX-512 wherever there is any: by itself it does so on Intel only."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")


def _suppressed(tokenizer: Any) -> list[int]:
    """Tokens never to be written: the tokenizer's non-speech symbols and the control tokens."""
    control = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    return sorted({*tokenizer.non_speech_tokens, *control})
