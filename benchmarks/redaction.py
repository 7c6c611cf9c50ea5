"""What the redactor finds and what it lets through: `python -m benchmarks.redaction [--asr-cache FILE]`.

Corpora: the sample calls' reference text; the same calls as our ASR writes them; and, of each of two generators,
passages that are a call of their own and passages joined by sixes into longer calls, where an old question can mislead.
`spoken` (`benchmarks.spoken_pii`) and the recognisers have one author; `dictated` (`benchmarks.dictated_pii`) was
written by another before reading either. Of both it is the held-out half that counts: recognisers are improved on the
other half (`--split dev`) alone.

recall        share of secrets of which every letter and digit is covered by a redaction, of whatever kind
typed_recall  the same, where a redaction of the secret's own kind touches it
precision     share of redactions that touch a secret
leakage       share of the secrets' letters and digits left in the redacted text

ASR text has no spans of its own: a secret there is what stands between the words that align with the reference's words
before and after it.
"""

import argparse
import difflib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import dictated_pii, spoken_pii
from benchmarks.spoken_pii import Passage, Secret, Split
from ray_jobs.engines import weights
from ray_jobs.engines.conversation import Line
from ray_jobs.engines.pii import PiiSpan, Redactor
from ray_jobs.records import SCHEMA_VERSION, Call, Transcript, table_to_transcripts, transcripts_to_table
from ray_jobs.spec import RedactSpec, RunSpec

SAMPLES = Path(__file__).parents[1] / "tests" / "data" / "sample_calls"
PATTERNED = ("PHONE", "EMAIL", "ADDRESS", "CREDIT_CARD", "CVV", "EXPIRY", "SSN", "DOB", "ACCOUNT_NUMBER")
NUM_PASSAGES = 600
PASSAGES_PER_LONG_CALL = 6
HELDOUT_SEED = 20_261_122


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCall:
    """Lines in time order, and where the secrets are."""

    lines: tuple[Line, ...]
    secrets: tuple[Secret, ...]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over calls; the counters are by entity."""

    secrets: Counter[str] = field(default_factory=Counter)
    covered: Counter[str] = field(default_factory=Counter)
    typed: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    mistaken: Counter[str] = field(default_factory=Counter)
    secret_chars: int = 0
    leaked_chars: int = 0

    def add(self, call: LabelledCall, spans: Sequence[PiiSpan]) -> None:
        for secret in call.secrets:
            touching = [span for span in spans if _touches(span, secret)]
            chars = [i for i in range(secret.start, secret.end) if call.lines[secret.line].text[i].isalnum()]
            leaked = [i for i in chars if not any(span.start <= i < span.end for span in touching)]
            self.secrets[secret.entity] += 1
            self.covered[secret.entity] += not leaked
            self.typed[secret.entity] += not leaked and any(span.entity == secret.entity for span in touching)
            self.secret_chars += len(chars)
            self.leaked_chars += len(leaked)
        for span in spans:
            self.redactions[span.entity] += 1
            self.mistaken[span.entity] += not any(_touches(span, secret) for secret in call.secrets)

    def merge(self, other: "Tally") -> None:
        for name in ("secrets", "covered", "typed", "redactions", "mistaken"):
            getattr(self, name).update(getattr(other, name))
        self.secret_chars += other.secret_chars
        self.leaked_chars += other.leaked_chars

    def report(self) -> dict[str, float | int]:
        patterned = sum(self.secrets[e] for e in PATTERNED)
        return {
            "num_secrets": self.secrets.total(),
            "recall": _ratio(self.covered.total(), self.secrets.total()),
            "patterned_recall": _ratio(sum(self.covered[e] for e in PATTERNED), patterned),
            "typed_recall": _ratio(self.typed.total(), self.secrets.total()),
            "precision": _ratio(self.redactions.total() - self.mistaken.total(), self.redactions.total()),
            "leakage": _ratio(self.leaked_chars, self.secret_chars),
        }

    def by_entity(self) -> dict[str, dict[str, float | int]]:
        return {
            entity: {
                "num": self.secrets[entity],
                "recall": _ratio(self.covered[entity], self.secrets[entity]),
                "typed_recall": _ratio(self.typed[entity], self.secrets[entity]),
                "precision": _ratio(self.redactions[entity] - self.mistaken[entity], self.redactions[entity]),
            }
            for entity in sorted(self.secrets)
        }

    def worst_entity(self) -> str:
        """The kind with the lowest recall."""
        return min(sorted(self.secrets), key=lambda entity: self.covered[entity] / self.secrets[entity])


def reference_calls() -> list[LabelledCall]:
    """The sample calls as their reference text has them."""
    calls = []
    for document in _sample_documents():
        lines = tuple(Line(speaker=turn["channel"], text=turn["text"]) for turn in document["turns"])
        calls.append(LabelledCall(lines=lines, secrets=tuple(_secrets_of(document))))
    return calls


def asr_calls(cache: Path) -> list[LabelledCall]:
    """The sample calls as ASR writes them, secrets placed by alignment; the transcripts are kept in `cache`."""
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        _write_transcripts(cache)
    import pyarrow.parquet as pq

    transcripts = {transcript.call_id: transcript for transcript in table_to_transcripts(pq.read_table(cache))}
    return [_aligned(document, transcripts[document["call_id"]]) for document in _sample_documents()]


def generated_calls(made: Sequence[Passage], *, per_call: int = 1, seed: int = 0) -> list[LabelledCall]:
    """Each passage a call, or `per_call` of them joined into one, shuffled so that kinds mix."""
    if per_call > 1:
        made = random.Random(seed).sample(made, len(made))
    calls = []
    for first in range(0, len(made), per_call):
        lines: list[Line] = []
        secrets: list[Secret] = []
        for passage in made[first : first + per_call]:
            secrets += [replace(secret, line=secret.line + len(lines)) for secret in passage.secrets]
            lines += [Line(speaker=speaker, text=text) for speaker, text in passage.lines]
        calls.append(LabelledCall(lines=tuple(lines), secrets=tuple(secrets)))
    return calls


def measure(calls: Sequence[LabelledCall], redactor: Redactor) -> Tally:
    tally = Tally()
    for call in calls:
        tally.add(call, redactor.find(call.lines))
    return tally


# ---------------------------------------------------------------------------------------------------------- ASR text


def _spec() -> RunSpec:
    return RunSpec.model_validate({"input": {"uri": str(SAMPLES)}})


def _cache() -> Path:
    """Where transcripts of this model and of this version of their schema are kept."""
    name = f"samples-{_spec().fingerprints()['asr']}-v{SCHEMA_VERSION}.parquet"
    return weights.cache_folder().parent / "benchmarks" / name


def _write_transcripts(cache: Path) -> None:
    import pyarrow.parquet as pq

    from ray_jobs.engines.load_asr import load_asr
    from ray_jobs.stages.transcribe import transcribe
    from spark_etl.job import open_part
    from spark_etl.prepare import prepare_partition

    spec = _spec()
    calls = [
        Call(
            call_id=document["call_id"],
            uri=str(SAMPLES / document["file"]),
            source=document["file"],
            size_bytes=0,
            version="",
            expected_speech_s=0.0,
        )
        for document in _sample_documents()
    ]
    rows = prepare_partition(calls, spec.etl, open_part)
    outcomes = transcribe(rows, load_asr(spec.asr, num_threads=2), spec.asr, spec.channels)
    pq.write_table(transcripts_to_table([o for o in outcomes if isinstance(o, Transcript)]), cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    text: str
    line: int
    start: int
    end: int
    secret: int  # index of the secret it belongs to, -1 for none


def _aligned(document: dict, transcript: Transcript) -> LabelledCall:  # type: ignore[type-arg]
    lines = tuple(Line(speaker=u.channel, text=u.text) for u in transcript.utterances)
    spoken = tuple(Line(speaker=turn["channel"], text=turn["text"]) for turn in document["turns"])
    secrets = list(_secrets_of(document))
    found: list[Secret] = []
    for channel in sorted({line.speaker for line in spoken}):
        reference = list(_tokens(spoken, channel, secrets))
        heard = list(_tokens(lines, channel, []))
        partner = _partners(reference, heard)
        for index, secret in enumerate(secrets):
            members = [position for position, token in enumerate(reference) if token.secret == index]
            if members:
                found += _between_neighbours(members, partner, heard, reference, lines, secret.entity)
    return LabelledCall(lines=lines, secrets=tuple(found))


def _partners(reference: Sequence[_Token], heard: Sequence[_Token]) -> dict[int, int]:
    matcher = difflib.SequenceMatcher(None, [t.text for t in reference], [t.text for t in heard], autojunk=False)
    return {block.a + i: block.b + i for block in matcher.get_matching_blocks() for i in range(block.size)}


def _between_neighbours(
    members: Sequence[int],
    partner: dict[int, int],
    heard: Sequence[_Token],
    reference: Sequence[_Token],
    lines: Sequence[Line],
    entity: str,
) -> Iterator[Secret]:
    """The heard tokens of one secret, one span per line; nothing where ASR dropped it."""
    before = next((partner[i] for i in range(members[0] - 1, -1, -1) if i in partner), -1)
    after = next((partner[i] for i in range(members[-1] + 1, len(reference)) if i in partner), len(heard))
    others = {partner[i] for i in partner if i not in members}
    inside = [i for i in range(before + 1, after) if i not in others]
    own = [partner[i] for i in members if i in partner]
    # Where something of the secret was heard, other utterances' unaligned words are not it.
    for line in sorted({heard[i].line for i in own or inside}):
        of_line = [heard[i] for i in inside if heard[i].line == line]
        yield Secret(line=line, start=of_line[0].start, end=of_line[-1].end, entity=entity)


_WORD = re.compile(r"\d|[^\W\d_]+(?:['’][^\W\d_]+)*")
_SAME = {
    "zero": "0",
    "oh": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
}
_SAME |= {"eight": "8", "nine": "9", "doctor": "dr"}


def _tokens(lines: Sequence[Line], channel: int, secrets: Sequence[Secret]) -> Iterator[_Token]:
    """Lower-case words and single digits, spoken digits as figures, so that "four one" aligns with "4-1"."""
    for index, line in enumerate(lines):
        if line.speaker != channel:
            continue
        for match in _WORD.finditer(line.text):
            inside = (i for i, s in enumerate(secrets) if s.line == index and s.start <= match.start() < s.end)
            text = match.group().lower()
            start, end = match.span()
            yield _Token(text=_SAME.get(text, text), line=index, start=start, end=end, secret=next(inside, -1))


# ------------------------------------------------------------------------------------------------------------ helpers


def _sample_documents() -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(path.read_text()) for path in sorted(SAMPLES.glob("*.json"))]


def _secrets_of(document: dict) -> Iterator[Secret]:  # type: ignore[type-arg]
    for pii in document["pii"]:
        text = document["turns"][pii["turn"]]["text"]
        start = text.index(pii["text"])
        yield Secret(line=pii["turn"], start=start, end=start + len(pii["text"]), entity=pii["type"])


def _touches(span: PiiSpan, secret: Secret) -> bool:
    return span.line == secret.line and span.start < secret.end and secret.start < span.end


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--asr-cache", type=Path, default=_cache())
    parser.add_argument("--split", choices=("dev", "heldout"), default="heldout")
    parser.add_argument("--seed", type=int, default=HELDOUT_SEED)
    args = parser.parse_args()
    redactor = Redactor(RedactSpec())
    corpora = {
        "sample_reference": reference_calls(),
        "sample_asr": asr_calls(args.asr_cache),
    }
    split: Split = args.split
    for name, generator in {"spoken": spoken_pii, "dictated": dictated_pii}.items():
        corpora[name] = generated_calls(generator.passages(NUM_PASSAGES, seed=args.seed, split=split))
        corpora[f"{name}_long"] = generated_calls(
            generator.passages(NUM_PASSAGES, seed=args.seed + 1, split=split),
            per_call=PASSAGES_PER_LONG_CALL,
            seed=args.seed,
        )
    total = Tally()
    reports = {}
    for name, calls in corpora.items():
        tally = measure(calls, redactor)
        total.merge(tally)
        print(f"{name:17}", *(f"{key} {value:<7}" for key, value in tally.report().items()))
        reports[name] = tally.report() | {"by_entity": tally.by_entity(), "worst_entity": tally.worst_entity()}
    by_entity = total.by_entity()
    for entity, row in by_entity.items():
        print(f"{entity:17}", *(f"{key} {value:<7}" for key, value in row.items()))
    result = {"benchmark": "redaction", **total.report(), "by_entity": by_entity, "worst_entity": total.worst_entity()}
    print(json.dumps({**result, "corpora": reports, "split": args.split}))


if __name__ == "__main__":
    main()
