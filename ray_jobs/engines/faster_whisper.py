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
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import DEFAULT_BATCH, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.meter import Meter
from ray_jobs.engines.waves import MAX_SAMPLES, RATE_HZ, num_samples, to_waves
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

_CPU = torch.device("cpu")
_FRAMES_PER_S = 100
_MAX_TOKENS = 224  # half of Whisper's text context, as in the reference decoder: a loop ends here at the latest


@dataclass(slots=True)
class _Decoded:
    """One window's tokens, before they are aligned."""

    tokens: list[int]
    language: str
    language_prob: float
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
        self._batch_size = spec.batch_size or DEFAULT_BATCH
        self._meter = Meter(0.0)
        self.transcribe([Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language="en")])
        self._meter = Meter(time.monotonic() - began)

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        # Windows of like length have texts of like length: a batch decodes for as long as its longest.
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].pcm) / windows[i].sample_rate_hz)
        texts: dict[int, WindowText] = {}
        with self._meter.at_work():
            for first in range(0, len(order), self._batch_size):
                batch = order[first : first + self._batch_size]
                texts.update(zip(batch, self._transcribe_batch([windows[i] for i in batch]), strict=True))
        self._meter.add_windows(windows)
        return [texts[i] for i in range(len(windows))]

    def stats(self) -> dict[str, float]:
        """As in the protocol."""
        return self._meter.read()

    def _transcribe_batch(self, windows: Sequence[Window]) -> list[WindowText]:
        encoded = self._model.encode(self._features(to_waves(windows, _CPU).numpy()))
        decoded = self._decode(encoded, self._languages(encoded, windows))
        # One encoder position at least.
        num_frames = [max(2, num_samples(window) * _FRAMES_PER_S // RATE_HZ) for window in windows]
        return list(self._read(encoded, decoded, num_frames))

    def _features(self, waves: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-mel spectra, float32, shape (num_windows, num_mels, 3000)."""
        extract = self._model.feature_extractor
        return np.stack([extract(np.pad(wave, (0, MAX_SAMPLES - len(wave))))[:, :-1] for wave in waves])

    def _languages(self, encoded: Any, windows: Sequence[Window]) -> list[tuple[str, float]]:
        """Each window's language and its probability."""
        if not self._model.model.is_multilingual:
            return [("en", 1.0)] * len(windows)
        given = [(window.language, 1.0) for window in windows if window.language is not None]
        if len(given) == len(windows):
            return given
        # CTranslate2 lists <|en|>-like tokens, the most probable first.
        best = [ranking[0] for ranking in self._model.model.detect_language(encoded)]
        return [
            (token[2:-2], prob) if window.language is None else (window.language, 1.0)
            for window, (token, prob) in zip(windows, best, strict=True)
        ]

    def _decode(self, encoded: Any, languages: Sequence[tuple[str, float]]) -> list[_Decoded]:
        tokenizers = [self._tokenizer(language) for language, _ in languages]
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
                language_prob=prob,
                avg_logprob=result.scores[0] * len(result.sequences_ids[0]) / (len(result.sequences_ids[0]) + 1),
                no_speech_prob=result.no_speech_prob,
            )
            for result, (language, prob) in zip(results, languages, strict=True)
        ]

    def _read(self, encoded: Any, decoded: Sequence[_Decoded], num_frames: Sequence[int]) -> Iterator[WindowText]:
        """Align the tokens with the audio, and make them words and segments."""
        # One start sequence for the batch: another language's token there moves words by 4 ms on average (measured).
        start = self._tokenizer(decoded[0].language).sot_sequence
        alignments = self._model.model.align(encoded, start, [d.tokens for d in decoded], list(num_frames))
        for window, alignment, frames in zip(decoded, alignments, num_frames, strict=True):
            segments: tuple[Segment, ...] = ()
            if not text.is_invented(window.avg_logprob, window.no_speech_prob):
                words = self._words(window, alignment, frames / _FRAMES_PER_S)
                kept = text.without_loops([word.text for word in words])
                segments = _segments(window, [words[i] for i in kept], repetition_cut=len(kept) < len(words))
                self._meter.add(num_loops_cut=len(kept) < len(words))
            self._meter.add(num_tokens=len(window.tokens))
            yield WindowText(language=window.language, language_prob=window.language_prob, segments=segments)

    def _words(self, window: _Decoded, alignment: Any, window_s: float) -> list[WindowWord]:
        tokenizer = self._tokenizer(window.language)
        pieces, tokens = tokenizer.split_tokens_on_unicode([*window.tokens, tokenizer.eot])
        return timed_words(
            pieces[:-1],
            [len(group) for group in tokens[:-1]],
            np.array(alignment.alignments, dtype=np.int64).reshape(-1, 2),
            np.array(alignment.text_token_probs),
            window_s,
            spaced=window.language not in text.UNSPACED_LANGUAGES,
        )

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


def _segments(window: _Decoded, words: Sequence[WindowWord], *, repetition_cut: bool) -> tuple[Segment, ...]:
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
            repetition_cut=repetition_cut,
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
