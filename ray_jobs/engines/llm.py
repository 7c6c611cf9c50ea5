"""The face every language-model engine shows: prompts in, completions out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: str  # system | user | assistant
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request. `max_tokens` bounds the completion; `schema` is the JSON schema it is to obey, or None."""

    messages: tuple[Message, ...]
    max_tokens: int
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer; `finish_reason` is "stop", or "length" where max_tokens cut it.

    `latency_s` is the time from handing the prompt in to the answer, with waiting and retries.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_s: float = 0.0


class LlmEngine(Protocol):
    """A loaded model or an endpoint. `generate` may be called from several threads at once."""

    model_name: str
    context_tokens: int

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` in this model's own vocabulary."""
        ...

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion | ValueError]:
        """Per prompt, in order, its completion, or in its place what is wrong with that prompt and no other.

        Raises what concerns the whole batch.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Counters since the start: num_prompts, prompt_tokens, completion_tokens, busy_s, load_s, ..."""
        ...
