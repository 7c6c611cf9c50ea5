"""Loads the ASR engine a spec names; each engine's libraries are imported only where it runs."""

from ray_jobs.engines.asr import AsrEngine
from ray_jobs.spec import AsrSpec


def load_asr(spec: AsrSpec, num_threads: int) -> AsrEngine:
    """The engine, loaded and warm. Raises ModelError."""
    if spec.engine == "whisper_torch":
        from ray_jobs.engines.whisper_torch import WhisperTorch

        return WhisperTorch(spec, num_threads)
    if spec.engine == "whisper_vllm":
        from ray_jobs.engines.whisper_vllm import WhisperVllm

        return WhisperVllm(spec, num_threads)
    if spec.engine == "ctc_torch":
        from ray_jobs.engines.ctc_torch import CtcTorch

        return CtcTorch(spec, num_threads)
    from ray_jobs.engines.faster_whisper import FasterWhisper

    return FasterWhisper(spec, num_threads)
