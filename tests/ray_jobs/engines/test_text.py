"""Guards against a model's inventions, and what they must leave alone."""

from ray_jobs.engines.text import compression_ratio, is_invented, is_looping, join_words, without_loops

LOOP = ["I'm", "going", "to"]


def kept(text: str) -> str:
    words = text.split()
    return " ".join(words[i] for i in without_loops(words))


def test_a_phrase_on_end_is_kept_once() -> None:
    text = " ".join(["Well,", *LOOP * 40, "bye."])
    assert compression_ratio(text) > 2.4
    assert kept(text) == "Well, I'm going to bye."


def test_punctuation_and_case_do_not_hide_a_loop() -> None:
    assert kept("Thank you. " * 20 + "thank you, " * 20) == "Thank you."


def test_numbers_are_never_cut() -> None:
    digits = "4-1-1-1. " + "1-1-1-1. " * 60
    assert compression_ratio(digits) > 2.4
    assert kept(digits) == digits.strip()


def test_ordinary_repeats_stay() -> None:
    text = "No, no, no, no, I said four one one one one, and not five."
    assert kept(text) == text


def test_a_model_that_is_stuck_is_told_from_a_speaker_who_repeats_himself() -> None:
    question = "Can I get the name and the phone number on the account?"
    repeated = f"{question} I'll call you back. {question} {question} Thank you, Victor. " * 2 + question
    card = "It's 4111 1111 1111 1111. Once more, please? Yes, 4111 1111 1111 1111. 4111 1111 1111 1111, is that right?"
    thrice = "Okay, that usually means the clock on it is wrong. Can you look at the time? " * 3 + "My pleasure."
    for text in (repeated, card, thrice):
        assert not is_looping(text)
    assert compression_ratio(repeated) > 2.4
    assert compression_ratio(thrice) > 2.4
    assert is_looping("Thank you so much. " * 9)
    assert is_looping(thrice.removesuffix("My pleasure."))  # nothing after it: the model may never have left it
    assert is_looping(thrice[: len(thrice) // 3 - 4] * 4 + "My pleasure.")
    assert is_looping("Well, " + "no, " * 40)
    assert is_looping("你好，我想查询我的账单。" * 12)


def test_no_text_is_no_loop() -> None:
    assert without_loops([]) == []


def test_doubtful_text_over_silence_is_invented_and_neither_alone_is() -> None:
    assert is_invented(avg_logprob=-1.5, no_speech_prob=0.9)
    assert not is_invented(avg_logprob=-0.2, no_speech_prob=0.9)
    assert not is_invented(avg_logprob=-1.5, no_speech_prob=0.1)


def test_words_join_as_their_language_writes_them() -> None:
    assert join_words(["good", "day"], "en") == "good day"
    assert join_words(["你", "好"], "zh") == "你好"
