"""What may follow what, on a vocabulary of two letters."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ray_jobs.engines.whisper_grammar import Grammar
from ray_jobs.engines.whisper_vocabulary import Vocabulary

TOKENS = ["a", "b", "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
TOKENS += ["<|nospeech|>", "<|notimestamps|>"]
A, B, END, _, EN, DE, _, TRANSCRIBE, *_ = range(len(TOKENS))
T0 = len(TOKENS)
VOCAB_SIZE = 51_865  # one that knows languages is at least as large; the rest of it are times


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("tokenizer")
    ids = {token: i for i, token in enumerate(TOKENS)}
    Tokenizer(WordLevel(ids, unk_token="a")).save(str(folder / "tokenizer.json"))
    return Vocabulary(folder, VOCAB_SIZE)


class TestGrammar:
    @pytest.fixture
    def grammar(self, vocabulary: Vocabulary) -> Grammar:
        return Grammar(vocabulary)

    @staticmethod
    def allowed(grammar: Grammar, tokens: list[int], language: str | None = None) -> set[int]:
        lowest, first, last = grammar.next(tokens, language)
        return {*range(lowest, END + 1), *range(first, last + 1)}

    def test_a_text_starts_with_its_language_and_its_task(self, grammar: Grammar) -> None:
        assert {EN, DE} <= self.allowed(grammar, []) <= set(range(EN, TRANSCRIBE))
        assert self.allowed(grammar, [], "de") == {DE}
        assert self.allowed(grammar, [DE]) == {TRANSCRIBE}

    def test_the_first_time_lies_in_the_first_second(self, grammar: Grammar) -> None:
        assert self.allowed(grammar, [EN, TRANSCRIBE]) == set(range(T0, T0 + 51))

    def test_a_time_opens_a_text_or_nothing_more_comes(self, grammar: Grammar) -> None:
        assert self.allowed(grammar, [EN, TRANSCRIBE, T0 + 5]) == {A, B, END}

    def test_a_text_goes_on_or_is_closed_by_a_later_time(self, grammar: Grammar) -> None:
        assert self.allowed(grammar, [EN, TRANSCRIBE, T0 + 5, A]) == {A, B, END, *range(T0 + 6, VOCAB_SIZE)}

    def test_after_a_closed_text_comes_the_next_time_or_the_end(self, grammar: Grammar) -> None:
        closed = [EN, TRANSCRIBE, T0 + 5, A, B, T0 + 9]
        assert self.allowed(grammar, closed) == {END, *range(T0 + 9, VOCAB_SIZE)}
        assert self.allowed(grammar, [*closed, T0 + 12]) == {A, B, END}
