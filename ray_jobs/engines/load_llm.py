"""Loads the language-model engine a spec names; each engine's libraries are imported only where it runs."""

from ray_jobs.engines import weights
from ray_jobs.engines.llm import LlmEngine
from ray_jobs.spec import LlmSpec


def load_llm(spec: LlmSpec) -> LlmEngine:
    """The engine, loaded. Raises ModelError, SpecError for a key that is not set, ValueError for the engine `none`."""
    if spec.engine == "vllm_local":
        from ray_jobs.engines.vllm_local import VllmLocal

        return VllmLocal(spec)
    if spec.engine == "openai_endpoint" and spec.endpoint is not None:
        from ray_jobs.engines.openai_endpoint import OpenAiEndpoint

        return OpenAiEndpoint(spec.endpoint, model=spec.model, context_tokens=spec.context_tokens, seed=spec.seed)
    raise ValueError(f"llm.engine {spec.engine} loads no model")


def check_llm(spec: LlmSpec) -> None:
    """Find what would keep `load_llm` from loading, without loading. Raises ModelError, SpecError or RetryableError."""
    if spec.endpoint is None:
        weights.check(spec.model, spec.engine)
        return
    from ray_jobs.engines import openai_endpoint

    openai_endpoint.check(spec.endpoint, spec.model)
