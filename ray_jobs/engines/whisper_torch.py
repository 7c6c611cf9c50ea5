"""Our own Whisper in torch: batched windows on one device, greedy decoding, words with times."""

import time
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import Segment, Window, WindowText, WindowWord
from ray_jobs.engines.faster_whisper import timed_words
from ray_jobs.engines.whisper_align import POSITION_S, token_starts
from ray_jobs.engines.whisper_decode import Decoded, WhisperDecoder
from ray_jobs.engines.whisper_features import RATE_HZ, LogMel, num_samples
from ray_jobs.engines.whisper_model import Decoder, Encoder
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import load_checkpoint
from ray_jobs.errors import ModelError, SpecError
from ray_jobs.spec import AsrSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
_ENCODER_BATCH = 4
_POSITION_SAMPLES = round(POSITION_S * RATE_HZ)


class WhisperTorch:
    """An AsrEngine of ours, on the first GPU or on the CPU (float16 there, bfloat16 here, where the spec leaves it open).

    Windows are padded with silence to 30 s, as Whisper was trained. A text that repeats itself or is unlikely is
    sampled again at rising temperatures; what the model itself takes for silence is dropped, repeated phrases are cut.
    """

    def __init__(self, spec: AsrSpec, num_threads: int) -> None:
        """Load and warm up. Raises ModelError or SpecError."""
        began = time.monotonic()
        if spec.beam_size != 1:
            raise SpecError(f"asr.beam_size {spec.beam_size}: whisper_torch decodes greedily; set 1, or faster_whisper")
        torch.set_num_threads(num_threads)
        self.model_name = spec.model
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = _choose_dtype(spec.compute_type, self._device)
        folder = weights.resolve(spec.model, "whisper_torch")
        checkpoint = load_checkpoint(folder)
        self._vocabulary = Vocabulary(folder, checkpoint.config.vocab_size)
        if spec.language is not None:
            self._check_language(spec.language)
        self._log_mel = LogMel(checkpoint.config.num_mels, self._device)
        self._encoder = Encoder(checkpoint, self._device, dtype)
        decoder = Decoder(checkpoint, self._device, dtype)
        self._decoder = WhisperDecoder(decoder, self._vocabulary, checkpoint.suppressed, checkpoint.suppressed_first)
        self._batch_size = spec.batch_size
        self._stats = dict.fromkeys(("num_windows", "num_tokens", "num_retries", "num_loops_cut", "audio_s", "busy_s"), 0.0)
        self.transcribe([Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language=spec.language)])
        self._stats = {**dict.fromkeys(self._stats, 0.0), "load_s": time.monotonic() - began}

    @torch.inference_mode()
    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch."""
        began = time.monotonic()
        # Windows of like length have texts of like length, and leave the batch together.
        order = sorted(range(len(windows)), key=lambda i: num_samples(windows[i]))
        texts: dict[int, WindowText] = {}
        for first in range(0, len(order), self._batch_size):
            batch = order[first : first + self._batch_size]
            texts.update(zip(batch, self._transcribe_batch([windows[i] for i in batch]), strict=True))
        self._stats["num_windows"] += len(windows)
        self._stats["audio_s"] += sum(len(window.pcm) / window.sample_rate_hz for window in windows)
        self._stats["busy_s"] += time.monotonic() - began
        return [texts[i] for i in range(len(windows))]

    def stats(self) -> dict[str, float]:
        """num_windows, num_tokens, num_retries, num_loops_cut, audio_s, busy_s, and load_s."""
        return dict(self._stats)

    def _transcribe_batch(self, windows: Sequence[Window]) -> list[WindowText]:
        log_mel = self._log_mel(windows)
        audio = torch.cat([self._encoder(part) for part in log_mel.split(_ENCODER_BATCH)])
        languages = self._languages(windows, audio)
        decoded = self._decoder.decode(audio, languages)
        self._retry(decoded, windows, audio, languages)
        num_positions = [max(1, -(-num_samples(window) // _POSITION_SAMPLES)) for window in windows]
        starts = token_starts([window.attention for window in decoded], num_positions)
        return [
            self._read(window, language, window_starts, num_samples(source) / RATE_HZ)
            for window, language, window_starts, source in zip(decoded, languages, starts, windows, strict=True)
        ]

    def _languages(self, windows: Sequence[Window], audio: Tensor) -> list[str]:
        given = [window.language for window in windows]
        if None not in given:
            return [language for language in given if language]
        return [language or detected for language, detected in zip(given, self._decoder.detect_languages(audio), strict=True)]

    def _retry(self, decoded: list[Decoded], windows: Sequence[Window], audio: Tensor, languages: Sequence[str]) -> None:
        """Replace poor texts by better ones, sampled at rising temperatures."""
        poor = [i for i, window in enumerate(decoded) if window.is_poor(self._vocabulary)]
        for temperature in _FALLBACK_TEMPERATURES:
            if not poor:
                return
            self._stats["num_retries"] += len(poor)
            seeds = [zlib.crc32(windows[i].pcm.tobytes()) for i in poor]
            tries = self._decoder.decode(audio[poor], [languages[i] for i in poor], temperature, seeds)
            for i, attempt in zip(poor, tries, strict=True):
                decoded[i] = attempt
            poor = [i for i in poor if decoded[i].is_poor(self._vocabulary)]

    def _read(self, decoded: Decoded, language: str, starts: Sequence[int], window_s: float) -> WindowText:
        self._stats["num_tokens"] += len(decoded.tokens)
        words = self._words(decoded, language, starts, window_s)
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

    def _words(self, decoded: Decoded, language: str, starts: Sequence[int], window_s: float) -> list[WindowWord]:
        pieces = list(self._vocabulary.iter_pieces(decoded.tokens))
        words = timed_words(
            [piece for piece, _ in pieces],
            [num_tokens for _, num_tokens in pieces],
            np.stack([np.arange(len(starts)), np.array(starts)], axis=1),
            np.exp(decoded.token_logprobs),
            window_s,
            spaced=language not in text.UNSPACED_LANGUAGES,
        )
        kept = text.without_loops([word.text for word in words])
        self._stats["num_loops_cut"] += len(kept) < len(words)
        return [words[i] for i in kept]

    def _check_language(self, language: str) -> None:
        known = list(self._vocabulary.languages) or ["en"]
        if language not in known:
            raise ModelError(f"asr.language {language}: model {self.model_name} knows {', '.join(known)}")


def _choose_dtype(compute_type: str, device: torch.device) -> torch.dtype:
    """The dtype of a compute type; "auto" takes what the device multiplies fast."""
    if compute_type in _DTYPES:
        return _DTYPES[compute_type]
    if compute_type != "auto":
        raise SpecError(f"asr.compute_type {compute_type}: whisper_torch takes auto, {', '.join(_DTYPES)}")
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32
