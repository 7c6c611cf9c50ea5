"""A language model for tests: answers by a function, keeps every batch it was given."""

from collections.abc import Callable, Sequence

from ray_jobs.engines.llm import Completion, Prompt


class FakeLlm:
    """An `LlmEngine`; `answer` turns a prompt into a text, or raises. A token is four characters."""

    model_name = "fake"

    def __init__(self, answer: Callable[[Prompt], str], context_tokens: int = 4096) -> None:
        self.context_tokens = context_tokens
        self.batches: list[list[Prompt]] = []
        self._answer = answer

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for batch in self.batches for prompt in batch]

    def count_tokens(self, text: str) -> int:
        return (len(text) + 3) // 4

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.batches.append(list(prompts))
        return [self._complete(prompt) for prompt in prompts]

    def stats(self) -> dict[str, float]:
        return {"num_prompts": float(len(self.prompts))}

    def _complete(self, prompt: Prompt) -> Completion:
        num_tokens = sum(self.count_tokens(message.content) for message in prompt.messages)
        if num_tokens + prompt.max_tokens > self.context_tokens:
            raise ValueError(f"{num_tokens} + {prompt.max_tokens} tokens do not fit {self.context_tokens}")
        text = self._answer(prompt)
        return Completion(
            text=text, finish_reason="stop", prompt_tokens=num_tokens, completion_tokens=self.count_tokens(text)
        )
