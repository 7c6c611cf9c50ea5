"""Loads the language-model engine a spec names; each engine's libraries are imported only where it runs."""

from ray_jobs.engines import weights
from ray_jobs.engines.llm import LlmEngine
from ray_jobs.spec import LlmSpec, SecretReaderSpec


def load_llm(spec: LlmSpec) -> LlmEngine:
    """The engine, loaded. Raises ModelError, SpecError for a key that is not set, ValueError for the engine `none`."""
    if spec.engine == "vllm_local":
        from ray_jobs.engines.vllm_local import VllmLocal

        return VllmLocal(spec)
    if spec.engine == "openai_endpoint" and spec.endpoint is not None:
        from ray_jobs.engines.openai_endpoint import OpenAiEndpoint

        return OpenAiEndpoint(spec.endpoint, model=spec.model, context_tokens=spec.context_tokens, seed=spec.seed)
    raise ValueError(f"llm.engine {spec.engine} loads no model")


def load_judges(spec: LlmSpec) -> dict[str, LlmEngine]:
    """Judge name to engine, for judges that do not share the tasks' own. Raises SpecError for a key that is not set."""
    from ray_jobs.engines.openai_endpoint import OpenAiEndpoint

    return {
        judge.name: OpenAiEndpoint(
            judge.endpoint, model=judge.model, context_tokens=judge.context_tokens, seed=spec.seed
        )
        for judge in spec.judges
        if judge.endpoint and judge.model
    }


def load_reader(spec: SecretReaderSpec) -> LlmEngine:
    """The model that reads transcripts for secrets. Raises SpecError for a key that is not set."""
    from ray_jobs.engines.openai_endpoint import OpenAiEndpoint

    return OpenAiEndpoint(spec.endpoint, model=spec.model, context_tokens=spec.context_tokens, seed=0)


def check_llm(spec: LlmSpec) -> None:
    """Find what would keep the engines from loading, without loading. Raises ModelError, SpecError, RetryableError."""
    from ray_jobs.engines import openai_endpoint

    if spec.endpoint:
        openai_endpoint.check(spec.endpoint, spec.model)
    else:
        weights.check(spec.model, spec.engine)
    for judge in spec.judges:
        if judge.endpoint and judge.model:
            openai_endpoint.check(judge.endpoint, judge.model)


def check_reader(spec: SecretReaderSpec) -> None:
    """`check_llm` for the model that reads transcripts for secrets."""
    from ray_jobs.engines import openai_endpoint

    openai_endpoint.check(spec.endpoint, spec.model)
