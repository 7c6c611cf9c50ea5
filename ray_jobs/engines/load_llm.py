"""Loads the language-model engine a spec names; each engine's libraries are imported only where it runs."""

from ray_jobs.engines.llm import LlmEngine
from ray_jobs.spec import LlmSpec


def load_llm(spec: LlmSpec) -> LlmEngine:
    """The engine, loaded. Raises ModelError, and ValueError for the engine `none`."""
    if spec.engine == "vllm_local":
        from ray_jobs.engines.vllm_local import VllmLocal

        return VllmLocal(spec)
    raise ValueError(f"llm.engine {spec.engine} loads no model")
