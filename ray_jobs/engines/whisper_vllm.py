"""Whisper in vLLM: the engine of those who run vLLM for everything. Written against vLLM 0.32.

vLLM shows no attention weights, so there is no alignment: a word's times are those of its text between two timestamp
tokens, shared out by letters. They are right to some tenths of a second, where the other Whisper engines' are to
hundredths (benchmarks/asr.py); who needs words on time takes one of those.
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import DEFAULT_BATCH, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.meter import Meter
from ray_jobs.engines.vllm_local import ENVIRONMENT
from ray_jobs.engines.waves import RATE_HZ, num_samples, to_waves
from ray_jobs.engines.whisper_align import POSITION_S
from ray_jobs.engines.whisper_timestamps import TimedTokens, cut
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

_MAX_TOKENS = 224  # half of Whisper's text context, as in the reference decoder: a loop ends here at the latest
_CPU = torch.device("cpu")


class WhisperVllm:
    """An AsrEngine on vLLM (bfloat16 on a CPU, float16 on a GPU where the spec leaves it open), greedy.

    Text that the model itself takes for silence is dropped, repeated phrases are cut; nothing is tried again at a
    higher temperature. Log-probabilities are the model's own, before suppressed tokens are taken out. The attention
    cache is sized for `asr.batch_size` windows, so the engine takes no more of a GPU than it needs.
    """

    def __init__(self, spec: AsrSpec, num_threads: int) -> None:
        """Load and warm up. Raises ModelError."""
        began = time.monotonic()
        self.model_name = spec.model
        self._num_threads = num_threads
        self._lock = threading.Lock()
        folder = weights.resolve(spec.model, "whisper_vllm")
        shape = json.loads((folder / "config.json").read_bytes())
        self._vocabulary = Vocabulary(folder, shape["vocab_size"])
        self._first_timestamp = self._vocabulary.timestamps.start
        self._check_language(spec.language)
        self._model = _load(spec, folder, shape, num_threads)
        self._meter = Meter(0.0)
        self.transcribe([Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language=spec.language)])
        self._meter = Meter(time.monotonic() - began)

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch. Calls take turns."""
        if not windows:
            return []
        for language in {window.language for window in windows}:
            self._check_language(language)  # vLLM would not survive an error between two of its steps
        with self._lock, self._meter.at_work():
            torch.set_num_threads(self._num_threads)  # a thread has a count of its own
            waves = to_waves(windows, _CPU).numpy()
            prompts = [self._prompt(wave[: num_samples(w)]) for wave, w in zip(waves, windows, strict=True)]
            params = [self._params(window.language) for window in windows]
            outputs = self._model.generate(prompts, params, use_tqdm=False)
        self._meter.add_windows(windows)
        return [self._read(output.outputs[0], w) for output, w in zip(outputs, windows, strict=True)]

    def stats(self) -> dict[str, float]:
        """What AsrEngine asks for."""
        return self._meter.read()

    def _prompt(self, wave: npt.NDArray[np.float32]) -> Any:
        """The window for the encoder, the token that starts a text for the decoder."""
        return {
            "encoder_prompt": {"prompt": "", "multi_modal_data": {"audio": (wave, RATE_HZ)}},
            "decoder_prompt": {"prompt_token_ids": [self._vocabulary.start]},
        }

    def _params(self, language: str | None) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0,
            max_tokens=_MAX_TOKENS,
            logprob_token_ids=[self._vocabulary.no_speech],
            detokenize=False,
            extra_args={"language": language},
        )

    def _read(self, output: Any, window: Window) -> WindowText:
        """Tokens as segments, one for each stretch between two timestamps."""
        no_speech_prob = math.exp(output.logprobs[0][self._vocabulary.no_speech].logprob)
        written = [(token, step[token].logprob) for token, step in zip(output.token_ids, output.logprobs, strict=True)]
        language, language_prob = self._language(*written[0], window)
        body = [(token, logprob) for token, logprob in written if self._is_text(token)]
        stretches = list(cut([token for token, _ in body], self._first_timestamp, num_samples(window) / RATE_HZ))
        said = [body[at.start : at.end] for at in stretches]
        self._meter.add(num_tokens=sum(map(len, said)))
        if not said or text.is_invented(_mean_logprob(chain(*said)), no_speech_prob):
            return WindowText(language=language, segments=(), language_prob=language_prob)
        words = [self._words(tokens, at, language) for tokens, at in zip(said, stretches, strict=True)]
        segments = [
            Segment(
                text=text.join_words([word.text for word in kept], language),
                start_s=kept[0].start_s,
                end_s=kept[-1].end_s,
                avg_logprob=_mean_logprob(tokens),
                no_speech_prob=no_speech_prob,
                words=tuple(kept),
                repetition_cut=len(kept) < len(all_words),
            )
            for tokens, all_words, kept in zip(said, words, self._without_loops(words), strict=True)
            if kept
        ]
        return WindowText(language=language, segments=tuple(segments), language_prob=language_prob)

    def _language(self, token: int, logprob: float, window: Window) -> tuple[str, float]:
        """The language a text was written in, and how likely it was where it had to be detected."""
        if window.language is not None or not self._vocabulary.languages:
            return window.language or "en", 1.0
        return next(code for code, known in self._vocabulary.languages.items() if known == token), math.exp(logprob)

    def _words(self, tokens: Sequence[tuple[int, float]], at: TimedTokens, language: str) -> list[WindowWord]:
        """A stretch's words, its time shared out among them by letters."""
        pieces = list(self._vocabulary.iter_pieces([token for token, _ in tokens]))
        letters = np.repeat([max(1, len(piece)) / count for piece, count in pieces], [count for _, count in pieces])
        shares = np.concatenate([[0.0], np.cumsum(letters) / letters.sum()])
        positions = (at.start_s + shares * (at.end_s - at.start_s)) / POSITION_S
        return timed_words(
            [piece for piece, _ in pieces],
            [count for _, count in pieces],
            np.stack([np.arange(len(positions)), positions.round().astype(np.int64)], axis=1),
            np.exp([logprob for _, logprob in tokens]),
            at.end_s,
            spaced=language not in text.UNSPACED_LANGUAGES,
        )

    def _without_loops(self, words: Sequence[Sequence[WindowWord]]) -> list[list[WindowWord]]:
        """The words of each stretch, those left out that repeat what was said before."""
        flat = [(i, word) for i, said in enumerate(words) for word in said]
        kept = [flat[at] for at in text.without_loops([word.text for _, word in flat])]
        self._meter.add(num_loops_cut=len(kept) < len(flat))
        return [[word for at, word in kept if at == i] for i in range(len(words))]

    def _is_text(self, token: int) -> bool:
        return token < self._vocabulary.end or token >= self._first_timestamp

    def _check_language(self, language: str | None) -> None:
        known = list(self._vocabulary.languages) or ["en"]
        if language is not None and language not in known:
            raise ModelError(f"asr.language {language}: model {self.model_name} knows {', '.join(known)}")


def _load(spec: AsrSpec, folder: Path, shape: dict[str, Any], num_threads: int) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine lives and dies with its actor's process
    logging.getLogger("vllm").setLevel(logging.ERROR)  # for what it says before it reads its own variable
    from vllm import LLM
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    torch.set_num_threads(num_threads)
    try:
        return LLM(
            str(folder),
            dtype=_dtype(spec.compute_type, on_cpu=on_cpu),
            max_num_seqs=_batch_size(spec),
            kv_cache_memory_bytes=_cache_bytes(shape, spec),
            logits_processors=["ray_jobs.engines.whisper_rules:WhisperRules"],
            limit_mm_per_prompt={"audio": 1},
            mm_processor_cache_gb=0,  # no window comes twice
            enforce_eager=on_cpu,
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"model {spec.model}: vLLM cannot load it: {' '.join(str(error).split())[:300]}") from error


def _dtype(compute_type: str, *, on_cpu: bool) -> Any:
    if compute_type != "auto":
        return compute_type
    return "bfloat16" if on_cpu else "float16"


def _batch_size(spec: AsrSpec) -> int:
    return spec.batch_size or DEFAULT_BATCH


def _cache_bytes(shape: dict[str, Any], spec: AsrSpec) -> int:
    """Keys and values of every decoder layer over a window's audio and its text, for a whole batch and one to spare."""
    positions = shape["max_source_positions"] + shape["max_target_positions"]
    value_bytes = 4 if spec.compute_type == "float32" else 2
    return int((_batch_size(spec) + 1) * positions * shape["decoder_layers"] * 2 * shape["d_model"] * value_bytes)


def _mean_logprob(tokens: Iterable[tuple[int, float]]) -> float:
    return fmean(logprob for _, logprob in tokens)
