"""Which of two answers to one question is better, as a model sees it.

A model that compares tends to like what it reads first, so every pair is shown in both orders, and only a preference
that survives the swap counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ray_jobs.engines.llm import LlmEngine
from ray_jobs.prompts import PromptFile
from ray_jobs.stages.asking import Answer, Question, ask, fit, inert, room

Verdict = Literal["a", "b", "tie"]

_SEEN = {
    # what was said of a pair shown as it is, and swapped
    "first": ("a", "b"),
    "second": ("b", "a"),
    "equal": ("tie", "tie"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The verdict on one call's two answers, with the reasons of both orders; or the `error` in its place.

    A tie is `settled` where both orders said so, and not where they contradicted each other.
    """

    verdict: Verdict = "tie"
    settled: bool = False
    reasons: tuple[str, ...] = ()
    error: str = ""


def prefer(
    texts: Mapping[str, str], pairs: Mapping[str, tuple[str, str]], engine: LlmEngine, file: PromptFile, rubric: str
) -> dict[str, Preference]:
    """Call id to preference, for every pair of answers; `texts` holds the transcripts of the same calls."""
    shown = {call_id: (inert(a), inert(b)) for call_id, (a, b) in pairs.items()}
    longest_a, longest_b = (
        max((pair[side] for pair in shown.values()), key=engine.count_tokens, default="") for side in (0, 1)
    )
    around = file.render(first=longest_a, second=longest_b, rubric=rubric)
    fitted = fit({i: texts[i] for i in shown}, engine, room(engine, file.version, around, file.max_tokens))
    answers = ask(
        {
            (call_id, swapped): Question(
                call_id=call_id,
                rendered=file.render(
                    transcript=fitted[call_id].text, first=pair[swapped], second=pair[1 - swapped], rubric=rubric
                ),
                max_tokens=file.max_tokens,
            )
            for call_id, pair in shown.items()
            if not fitted[call_id].error
            for swapped in (0, 1)
        },
        engine,
    )
    return {
        call_id: _preference(answers[call_id, 0], answers[call_id, 1])
        if not fitted[call_id].error
        else Preference(error=fitted[call_id].error)
        for call_id in shown
    }


def _preference(straight: Answer, swapped: Answer) -> Preference:
    if error := straight.error or swapped.error:
        return Preference(error=error)
    verdict, other = _SEEN[straight.value["better"]][0], _SEEN[swapped.value["better"]][1]
    reasons = (straight.value["reason"], swapped.value["reason"])
    if verdict != other:
        return Preference(reasons=reasons)
    return Preference(verdict=verdict, settled=True, reasons=reasons)  # type: ignore[arg-type]
