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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_jobs.engines import text, weights
from ray_jobs.engines.asr import Segment, Window, WindowText, WindowWord
from ray_jobs.engines.vllm_local import ENVIRONMENT
from ray_jobs.engines.waves import RATE_HZ, num_samples, to_waves
from ray_jobs.engines.whisper_align import POSITION_S
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

_MAX_TOKENS = 224  # half of Whisper's text context, as in the reference decoder: a loop ends here at the latest
_TIMESTAMP_S = 0.02
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Text between two timestamps, in seconds from the window's start."""

    start_s: float
    end_s: float
    tokens: Sequence[int]
    logprobs: Sequence[float]


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
        self._model = _load(spec, folder, num_threads)
        self._vocabulary = Vocabulary(folder, self._model.model_config.hf_config.vocab_size)
        if spec.language is not None:
            self._check_language(spec.language)
        self._stats = dict.fromkeys(("num_windows", "num_tokens", "num_loops_cut", "audio_s", "busy_s"), 0.0)
        self.transcribe([Window(pcm=np.zeros(RATE_HZ, np.int16), sample_rate_hz=RATE_HZ, language=spec.language)])
        self._stats = {**dict.fromkeys(self._stats, 0.0), "load_s": time.monotonic() - began}

    def transcribe(self, windows: Sequence[Window]) -> list[WindowText]:
        """One result per window, in order, or an exception for the whole batch. Calls take turns."""
        if not windows:
            return []
        with self._lock:
            began = time.monotonic()
            torch.set_num_threads(self._num_threads)  # a thread has a count of its own
            waves = to_waves(windows, _CPU).numpy()
            prompts = [_prompt(wave[: num_samples(w)], self._vocabulary) for wave, w in zip(waves, windows, strict=True)]
            outputs = self._model.generate(prompts, [self._params(window) for window in windows], use_tqdm=False)
            texts = [self._read(output.outputs[0], w) for output, w in zip(outputs, windows, strict=True)]
            self._stats["num_windows"] += len(windows)
            self._stats["audio_s"] += sum(len(window.pcm) / window.sample_rate_hz for window in windows)
            self._stats["busy_s"] += time.monotonic() - began
        return texts

    def stats(self) -> dict[str, float]:
        """num_windows, num_tokens, num_loops_cut, audio_s, busy_s and load_s."""
        return dict(self._stats)

    def _params(self, window: Window) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0,
            max_tokens=_MAX_TOKENS,
            logprob_token_ids=[self._vocabulary.no_speech],
            detokenize=False,
            extra_args={"language": window.language},
        )

    def _read(self, output: Any, window: Window) -> WindowText:
        """Tokens as segments, one for each stretch between two timestamps."""
        tokens = list(output.token_ids)
        logprobs = [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]
        no_speech_prob = math.exp(output.logprobs[0][self._vocabulary.no_speech].logprob)
        language = next((code for code, token in self._vocabulary.languages.items() if token == tokens[0]), "en")
        stretches = list(_stretches(tokens, logprobs, self._vocabulary, num_samples(window) / RATE_HZ))
        said = [logprob for stretch in stretches for logprob in stretch.logprobs]
        self._stats["num_tokens"] += len(said)
        if not said or text.is_invented(fmean(said), no_speech_prob):
            return WindowText(language=language, segments=())
        words = [self._words(stretch, language) for stretch in stretches]
        kept = self._without_loops(words)
        segments = [
            Segment(
                text=text.join_words([word.text for word in stretch_words], language),
                start_s=stretch_words[0].start_s,
                end_s=stretch_words[-1].end_s,
                avg_logprob=fmean(stretch.logprobs),
                no_speech_prob=no_speech_prob,
                words=tuple(stretch_words),
            )
            for stretch, stretch_words in zip(stretches, kept, strict=True)
            if stretch_words
        ]
        return WindowText(language=language, segments=tuple(segments))

    def _words(self, stretch: _Stretch, language: str) -> list[WindowWord]:
        """The stretch's words, its time shared out among them by letters."""
        pieces = list(self._vocabulary.iter_pieces(stretch.tokens))
        letters = np.repeat([len(piece) / count for piece, count in pieces], [count for _, count in pieces])
        shares = np.concatenate([[0.0], np.cumsum(letters) / letters.sum()])
        positions = (stretch.start_s + shares * (stretch.end_s - stretch.start_s)) / POSITION_S
        return timed_words(
            [piece for piece, _ in pieces],
            [count for _, count in pieces],
            np.stack([np.arange(len(positions)), positions.round().astype(np.int64)], axis=1),
            np.exp(stretch.logprobs),
            stretch.end_s,
            spaced=language not in text.UNSPACED_LANGUAGES,
        )

    def _without_loops(self, words: Sequence[Sequence[WindowWord]]) -> list[list[WindowWord]]:
        """The words of each stretch, those left out that repeat what was said before."""
        flat = [(i, word) for i, stretch_words in enumerate(words) for word in stretch_words]
        kept = [flat[at] for at in text.without_loops([word.text for _, word in flat])]
        self._stats["num_loops_cut"] += len(kept) < len(flat)
        return [[word for at, word in kept if at == i] for i in range(len(words))]

    def _check_language(self, language: str) -> None:
        known = list(self._vocabulary.languages) or ["en"]
        if language not in known:
            raise ModelError(f"asr.language {language}: model {self.model_name} knows {', '.join(known)}")


def _load(spec: AsrSpec, folder: Path, num_threads: int) -> Any:
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
            max_num_seqs=spec.batch_size,
            kv_cache_memory_bytes=_cache_bytes(folder, spec),
            logits_processors=["ray_jobs.engines.whisper_rules:WhisperRules"],
            limit_mm_per_prompt={"audio": 1},
            mm_processor_cache_gb=0,  # no window comes twice
            enforce_eager=on_cpu,
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"model {spec.model}: vLLM cannot load it: {' '.join(str(error).split())[:300]}") from error


def _dtype(compute_type: str, *, on_cpu: bool) -> str:
    if compute_type != "auto":
        return compute_type
    return "bfloat16" if on_cpu else "float16"


def _cache_bytes(folder: Path, spec: AsrSpec) -> int:
    """Keys and values of every decoder layer over a window's audio and its text, for a whole batch and one to spare."""
    shape = json.loads((folder / "config.json").read_bytes())
    positions = shape["max_source_positions"] + shape["max_target_positions"]
    value_bytes = 4 if spec.compute_type == "float32" else 2
    return int((spec.batch_size + 1) * positions * shape["decoder_layers"] * 2 * shape["d_model"] * value_bytes)


def _prompt(wave: npt.NDArray[np.float32], vocabulary: Vocabulary) -> Any:
    """vLLM's prompt: the window for the encoder, the token that starts a text for the decoder."""
    return {
        "encoder_prompt": {"prompt": "", "multi_modal_data": {"audio": (wave, RATE_HZ)}},
        "decoder_prompt": {"prompt_token_ids": [vocabulary.start]},
    }


def _stretches(
    tokens: Sequence[int], logprobs: Sequence[float], vocabulary: Vocabulary, window_s: float
) -> Iterator[_Stretch]:
    """The text between each pair of timestamps, times kept inside the window; one left open ends with the window."""
    start_s, said = 0.0, slice(0, 0)
    for at, token in enumerate(tokens):
        if token < vocabulary.end:
            said = slice(said.start, at + 1)
            continue
        is_time = token >= vocabulary.first_timestamp
        time_s = min((token - vocabulary.first_timestamp) * _TIMESTAMP_S, window_s) if is_time else window_s
        if said.stop > said.start:
            yield _Stretch(start_s=start_s, end_s=time_s, tokens=tokens[said], logprobs=logprobs[said])
        start_s, said = time_s, slice(at + 1, at + 1)
    if said.stop > said.start:
        yield _Stretch(start_s=start_s, end_s=window_s, tokens=tokens[said], logprobs=logprobs[said])
