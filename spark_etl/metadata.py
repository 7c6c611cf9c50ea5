"""What outputs may show of what is known of a call: columns that were asked for, without values that name a person."""

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Collection, Iterator

from ray_jobs.errors import SpecError
from ray_jobs.pii_names import looks_personal
from ray_jobs.spec import InputSpec, RedactSpec
from spark_etl.manifest import Facts

STRUCTURE = frozenset({"uri", "path", "call_id", "role", "roles", "size_bytes", "etag", "duration_s"})
"""Columns that say what the call is, and are not shown beside it."""

USUAL = ("started_at", "agent", "queue", "language")
"""Columns that outputs carry where the spec names none."""

REMOVED = "[REMOVED]"


class Metadata:
    """Turns facts into what outputs carry, and counts what it holds back.

    Redaction would be undone by a customer's number in a column beside the text: only the columns the spec names go
    on, and a value that looks personal is replaced as redaction replaces it (by its keyed hash, by REMOVED; kept where
    unredacted text is kept).
    """

    def __init__(self, selection: InputSpec, redact: RedactSpec, columns: Collection[str], source: str) -> None:
        """`columns` are those that rows have, `source` what has them. Raises SpecError for one that is not there."""
        self._redact = redact
        self._source = source
        wanted = USUAL if selection.metadata is None else selection.metadata
        self._kept = set(columns) if "*" in wanted else set(wanted)
        self._left_out = sorted(set(columns) - self._kept - STRUCTURE)
        self._replaced: Counter[str] = Counter()
        missing = sorted(self._kept - set(columns) - {"*"})
        if selection.metadata is not None and missing and columns:
            raise SpecError(
                f"{source}: has no column {missing[0]}, which input.metadata names; it has {_list(columns)}"
            )

    def of(self, groups: Facts, row: Facts) -> dict[str, str]:
        """What is kept of a file name's groups (all of them) and of a row, by column."""
        facts = {**groups, **{name: value for name, value in row.items() if name in self._kept}}
        return {name: self._shown(name, value) for name, value in sorted(facts.items()) if name not in STRUCTURE}

    def notes(self) -> Iterator[str]:
        """What whoever starts the run should know, a line each."""
        if self._left_out:
            yield (
                f"{self._source}: {_list(self._left_out)} will not be in the outputs; input.metadata names what will be"
            )
        for name, count in sorted(self._replaced.items()):
            yield f"{self._source}: {count:,} values of {name} look personal and are replaced in the outputs"

    def _shown(self, name: str, value: str) -> str:
        if not (self._redact.removes_secrets and looks_personal(value)):
            return value
        self._replaced[name] += 1
        if self._redact.mode != "hash":
            return REMOVED
        key = os.environ.get(self._redact.hash_key_env or "", "").encode()
        return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:12]


def _list(names: Collection[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
