"""From files to calls: whose file it is, which files are one call, and what is known of it.

A file's facts come from its name (`input.name_pattern`) and from its row in the manifest or its sidecar; where both
speak, the row is right. Files with one call id and a role each are the parts of one call, in the order of
`channels.roles`, then by name. A party whose file is not there is missing: the call goes on with the others and says
so, and is done again when the file comes, since its version then is another one.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ray_jobs import storage
from ray_jobs.errors import SpecError
from ray_jobs.records import Call, Part, RawCoding
from ray_jobs.spec import RawSpec, RunSpec
from ray_jobs.storage import ObjectInfo
from spark_etl.decode import raw_bytes_per_s
from spark_etl.listing import list_input, matches, path_below, recordings, select
from spark_etl.manifest import Facts, Manifest, is_manifest, read_manifest, read_sidecars
from spark_etl.metadata import Metadata
from spark_etl.naming import Names, source_of
from spark_etl.partition import SPEECH_SHARE, expected_speech_s

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_LANGUAGE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One recording and its facts; `key` is the call id it is given, or ""."""

    info: ObjectInfo
    path: str
    key: str
    part: Part
    role: str
    groups: Facts
    row: Facts

    @property
    def language(self) -> str:
        return self.row.get("language") or self.groups.get("language", "")

    @property
    def token(self) -> str:
        """The version of the file and of how it is read."""
        raw = self.part.raw
        reading = [
            f"{raw.encoding}/{raw.sample_rate_hz}/{raw.num_channels}" if raw else "",
            ",".join(self.part.roles),
            self.language,
        ]
        return ";".join([self.info.version, *reading]) if any(reading) and self.info.version else self.info.version


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The calls of an input, what lies at `root` by location, and lines for whoever starts the run."""

    root: str
    listed: Mapping[str, ObjectInfo]
    calls: Sequence[Call]
    notes: tuple[str, ...]


def find_calls(spec: RunSpec, owners: Mapping[str, str]) -> Found:
    """List the input, or take its manifest's word; select; make calls. `owners` are ids given before.

    What a row names and is not there becomes a call all the same, to end as the failure `vanished`.
    Raises SpecError; see `spark_etl.plan.make_plan`.
    """
    root, manifest, listed = _list(spec)
    named = manifest.by_uri if manifest else {}
    absent = {uri: storage.nothing_at(uri) for uri in named if uri not in listed}
    objects = select(root, {**listed, **absent}, spec.input)
    sidecars, broken = read_sidecars([info.uri for info in objects], listed) if spec.input.sidecars else ({}, [])
    columns = manifest.columns if manifest else {name for facts in sidecars.values() for name in facts}
    metadata = Metadata(spec.input, spec.redact, columns, f"manifest {manifest.uri}" if manifest else "sidecars")
    maker = _CallMaker(root, spec, manifest, sidecars, metadata)
    names = Names(owners)
    for uri in recordings({**listed, **absent}, root, spec.input):
        names.of_path(path_below(uri, root), uri)  # of all there are: what is selected changes no id
    calls = maker.make(objects, names)
    notes = [*maker.notes()]
    if broken:
        notes.append(f"{len(broken):,} sidecars are not JSON objects, such as {broken[0]}; their calls go without")
    return Found(root=root, listed=listed, calls=calls, notes=tuple(notes))


def _list(spec: RunSpec) -> tuple[str, Manifest | None, dict[str, ObjectInfo]]:
    """The folder that paths are relative to, the manifest, and what lies in the input by location."""
    root = storage.normalise(spec.input.uri)
    if not is_manifest(root):
        listed = {info.uri: info for info in list_input(root, storage.normalise(spec.output.uri))}
        return root, read_manifest(spec.input.manifest, root) if spec.input.manifest else None, listed
    manifest = read_manifest(spec.input.uri)
    if not manifest.names_files:
        raise SpecError(f"input {root}: the manifest has no column uri or path, so it cannot be the listing")
    return manifest.base, manifest, {info.uri: info for info in manifest.objects()}


class _CallMaker:
    """Makes the calls of one planning, and keeps count of what was unusual about them."""

    def __init__(
        self, root: str, spec: RunSpec, manifest: Manifest | None, sidecars: Mapping[str, Facts], metadata: Metadata
    ) -> None:
        self._root = root
        self._input = spec.input
        self._roles = spec.channels.roles
        self._pattern = re.compile(spec.input.name_pattern) if spec.input.name_pattern else None
        self._manifest = manifest
        self._sidecars = sidecars
        self._metadata = metadata
        self._num_unmatched = 0
        self._num_without_row = 0
        self._num_halves = 0
        self._met: set[str] = set()

    def make(self, objects: Sequence[ObjectInfo], names: Names) -> list[Call]:
        """The calls in the order of their first files, called by `names`.

        Raises SpecError where two files claim to be the same party of one call, or a row makes no sense.
        """
        groups: dict[str, list[_File]] = defaultdict(list)
        for file in map(self._file, objects):
            groups[file.key.lstrip("/") or "/" + file.info.uri].append(file)
        if self._pattern and objects and self._num_unmatched == len(objects):
            raise SpecError(
                f"input.name_pattern: {self._input.name_pattern} matches none of the {len(objects)} recordings, "
                f"such as {_stem(path_below(objects[0].uri, self._root))}"
            )
        # Ids that were given go first: one made of a path gives way to them.
        keyed = sorted(groups, key=lambda key: key.startswith("/"))
        calls = {key: self._call(groups[key], names) for key in keyed}
        return [calls[key] for key in groups]

    def notes(self) -> Iterator[str]:
        """What whoever starts the run should know, a line each."""
        yield from self._metadata.notes()
        if self._num_unmatched:
            yield f"input.name_pattern: does not match {self._num_unmatched:,} recordings; they are taken as they are"
        if self._num_without_row:
            yield f"{self._num_without_row:,} recordings have no row of metadata; they are taken without"
        if self._manifest and (unmet := len(self._manifest.by_call_id.keys() - self._met)):
            yield f"manifest {self._manifest.uri}: {unmet:,} of its call ids belong to no selected recording"
        if self._num_halves:
            yield f"{self._num_halves:,} calls lack the file of a party; they are transcribed without it"

    def _file(self, info: ObjectInfo) -> _File:
        path = path_below(info.uri, self._root)
        groups = self._groups(path)
        row = self._row(info.uri, groups.get("call_id") or _stem(path).rpartition("/")[2])
        role = row.get("role") or groups.get("role", "")
        role = self._input.role_names.get(role, role)
        roles = (role,) if role else tuple(re.split(r"\s*[,;|]\s*", row["roles"])) if "roles" in row else ()
        return _File(
            info=info,
            path=path,
            key=row.get("call_id") or groups.get("call_id", ""),
            part=Part(uri=info.uri, version=info.version, roles=roles, raw=_coding(path, self._input.raw)),
            role=role,
            groups=groups,
            row=row,
        )

    def _groups(self, path: str) -> Facts:
        if self._pattern is None:
            return {}
        match = self._pattern.fullmatch(_stem(path))
        if match is None:
            self._num_unmatched += 1
            return {}
        return {name: value for name, value in match.groupdict().items() if value}

    def _row(self, uri: str, call_id: str) -> Facts:
        if self._manifest is None and not self._input.sidecars:
            return {}
        by_uri = self._manifest.by_uri if self._manifest else self._sidecars
        row = by_uri.get(uri)
        if row is None and self._manifest and (row := self._manifest.by_call_id.get(call_id)) is not None:
            self._met.add(call_id)
        if row is None:
            self._num_without_row += 1
        return row or {}

    def _call(self, files: Sequence[_File], names: Names) -> Call:
        ordered = sorted(files, key=self._place)
        self._check_parties(ordered)
        there = [file for file in ordered if file.info.version] or ordered
        first = there[0]
        parts = tuple(file.part for file in there)
        language = _language(next((file.language for file in there if file.language), ""), first)
        present = {file.role for file in there}
        # Of parties with names of their own it is not known who else there should be.
        missing = tuple(r for r in self._roles if r not in present) if present.intersection(self._roles) else ()
        self._num_halves += bool(missing)
        call_id = names.of_key(first.key, first.info.uri) if first.key else names.of_path(first.path, first.info.uri)
        plain = parts == (Part(uri=first.info.uri, version=first.info.version),) and not language
        return Call(
            call_id=call_id,
            uri=first.info.uri,
            source=source_of(self._root, first.path, first.info.uri, call_id),
            size_bytes=sum(file.info.size_bytes for file in there),
            version=" ".join(file.token for file in there if file.token),
            expected_speech_s=sum(map(_expected_speech_s, there)),
            parts=() if plain else parts,
            language=language,
            missing_roles=missing,
            metadata={
                name: value
                for file in reversed(there)
                for name, value in self._metadata.of(file.groups, file.row).items()
            },
        )

    def _place(self, file: _File) -> tuple[int, str]:
        return (self._roles.index(file.role) if file.role in self._roles else len(self._roles), file.info.uri)

    def _check_parties(self, files: Sequence[_File]) -> None:
        parties: dict[str, _File] = {}
        for file in files:
            other = parties.setdefault(file.role, file)
            if other is not file:
                raise SpecError(
                    f"call_id {file.key}: {other.info.uri} and {file.info.uri} both have it"
                    f"{f' as {file.role}' if file.role else ''}; make the ids differ, or give each its party's role"
                )


def _coding(path: str, specs: Sequence[RawSpec]) -> RawCoding | None:
    for raw in specs:
        if matches(path, raw.globs):
            return RawCoding(encoding=raw.encoding, sample_rate_hz=raw.sample_rate_hz, num_channels=raw.num_channels)
    return None


def _expected_speech_s(file: _File) -> float:
    """The prior of `partition.expected_speech_s`, where nothing better is known."""
    stated = file.row.get("duration_s")
    if stated is not None:
        try:
            return max(0.0, float(stated)) * SPEECH_SHARE
        except ValueError:
            raise SpecError(f"{file.info.uri}: its row of metadata says duration_s {stated}, not a number") from None
    if file.part.raw:
        return file.info.size_bytes / raw_bytes_per_s(file.part.raw) * SPEECH_SHARE
    return expected_speech_s(file.info) if file.info.version else 0.0


def _language(stated: str, file: _File) -> str:
    """The code of a language, without the region: en of en-US."""
    match = _LANGUAGE.fullmatch(stated)
    if stated and match is None:
        raise SpecError(f"{file.info.uri}: its row of metadata says language {stated}, not a code such as en or en-US")
    return match[1].lower() if match else ""


def _stem(path: str) -> str:
    return _EXTENSION.sub("", path)
