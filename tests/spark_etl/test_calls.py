"""From files to calls: what names, manifests and sidecars say of recordings, and which files are one call."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs.errors import SpecError
from ray_jobs.ledger import Ledger
from ray_jobs.records import Call, RawCoding
from ray_jobs.spec import RunSpec, parse_spec
from spark_etl.calls import find_calls
from spark_etl.plan import make_plan, persist

PAIR = r"(?P<queue>[^/]+)/(?P<date>\d{4}-\d{2}-\d{2})/(?P<call_id>\w+)_(?P<role>agent|customer|rx|tx)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


@pytest.fixture
def spec_for(folder: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    def build(redact: dict[str, object] | None = None, **settings: object) -> RunSpec:
        return parse_spec(
            {
                "input": {"uri": str(folder), **settings},
                "output": {"uri": str(tmp_path / "out")},
                "redact": redact or {},
            }
        )

    return build


def put(folder: Path, *names: str, size: int = 16_000) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))


def write_csv(path: Path, rows: Sequence[dict[str, str]], **options: str) -> str:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0].keys(), **options)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def found(spec: RunSpec) -> dict[str, Call]:
    calls = find_calls(spec, {}).calls
    assert len({call.call_id for call in calls}) == len(calls)
    return {call.call_id: call for call in calls}


def refusal(spec: RunSpec) -> str:
    with pytest.raises(SpecError) as caught:
        find_calls(spec, {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestNames:
    def test_named_groups_are_metadata(self, folder, spec_for):
        put(folder, "billing/2026-11-25/a1.wav")
        (call,) = found(spec_for(name_pattern=r"(?P<queue>\w+)/(?P<date>[\d-]+)/.*")).values()
        assert call.call_id == "billing__2026-11-25__a1"
        assert call.metadata == {"queue": "billing", "date": "2026-11-25"}

    def test_a_recording_that_does_not_match_is_taken_as_it_is_and_counted(self, folder, spec_for):
        put(folder, "billing/a1.wav", "a2.wav")
        result = find_calls(spec_for(name_pattern=r"(?P<queue>\w+)/.*"), {})
        assert {call.call_id: call.metadata for call in result.calls} == {"billing__a1": {"queue": "billing"}, "a2": {}}
        assert result.notes == ("input.name_pattern: does not match 1 recordings; they are taken as they are",)

    def test_a_pattern_that_matches_nothing_is_refused_with_an_example(self, folder, spec_for):
        put(folder, "a1.wav")
        assert refusal(spec_for(name_pattern=r"(?P<queue>\w+)/.*")).endswith("none of the 1 recordings, such as a1")

    @pytest.mark.parametrize("pattern", ["(?P<queue", "no groups", "(?P<role>agent)"])
    def test_a_pattern_that_cannot_work_is_refused_by_the_spec(self, spec_for, pattern):
        with pytest.raises(SpecError, match=r"input\.name_pattern"):
            spec_for(name_pattern=pattern)

    def test_an_id_that_a_pattern_gives_is_made_safe_and_stays_unique(self, folder, spec_for):
        put(folder, "x/jane@example.com.wav", "x/4_.wav", "x/4 .wav", "x/5.wav")
        ids = {
            Path(call.uri).stem: call.call_id for call in found(spec_for(name_pattern=r"x/(?P<call_id>.*)")).values()
        }
        assert (ids["5"], ids["4_"]) == ("5", "4_")
        assert re.fullmatch("4_-[0-9a-f]{12}", ids["4 "])
        assert re.fullmatch("call-[0-9a-f]{12}", ids["jane@example.com"])

    def test_a_file_may_not_take_the_id_that_another_was_given(self, folder, spec_for):
        put(folder, "7.wav", "calls/x.wav")
        assert len(found(spec_for(name_pattern="calls/(?P<call_id>x)"))) == 2
        manifest = write_csv(folder / "m.csv", [{"path": "calls/x.wav", "call_id": "7"}])
        calls = found(spec_for(manifest=manifest))
        assert calls["7"].uri.endswith("calls/x.wav")


class TestPairs:
    def test_two_mono_files_are_one_call(self, folder, spec_for):
        put(folder, "vip/2026-11-25/c1_customer.wav", "vip/2026-11-25/c1_agent.wav", "vip/2026-11-25/c2_agent.wav")
        result = find_calls(spec_for(name_pattern=PAIR), {})
        calls = {call.call_id: call for call in result.calls}
        assert calls.keys() == {"c1", "c2"}
        agent, customer = calls["c1"].parts
        assert (agent.roles, customer.roles) == (("agent",), ("customer",))
        assert calls["c1"].version == f"{agent.version};;agent; {customer.version};;customer;"
        assert calls["c1"].size_bytes == 32_000
        assert calls["c1"].metadata == {"queue": "vip", "date": "2026-11-25"}
        assert calls["c1"].missing_roles == ()

    def test_a_party_whose_file_is_not_there_is_named(self, folder, spec_for):
        put(folder, "vip/2026-11-25/c2_customer.wav")
        result = find_calls(spec_for(name_pattern=PAIR), {})
        (call,) = result.calls
        assert (call.missing_roles, [part.roles for part in call.parts]) == (("agent",), [("customer",)])
        assert result.notes == ("1 calls lack the file of a party; they are transcribed without it",)

    def test_parties_may_have_other_names_in_file_names(self, folder, spec_for):
        put(folder, "vip/2026-11-25/c1_rx.wav", "vip/2026-11-25/c1_tx.wav")
        call = found(spec_for(name_pattern=PAIR, role_names={"rx": "customer", "tx": "agent"}))["c1"]
        assert [(part.uri[-6:], part.roles) for part in call.parts] == [
            ("tx.wav", ("agent",)),
            ("rx.wav", ("customer",)),
        ]

    def test_two_files_of_one_party_are_refused(self, folder, spec_for):
        put(folder, "a/2026-11-25/c1_agent.wav", "b/2026-11-25/c1_agent.wav")
        assert "both have it as agent; make the ids differ" in refusal(spec_for(name_pattern=PAIR))

    def test_a_call_is_done_again_when_its_other_half_comes(self, folder, spec_for, tmp_path):
        put(folder, "vip/2026-11-25/c1_agent.wav")
        before = found(spec_for(name_pattern=PAIR))["c1"].version
        put(folder, "vip/2026-11-25/c1_customer.wav")
        after = found(spec_for(name_pattern=PAIR))["c1"].version
        assert set(before.split()) < set(after.split())


class TestRaw:
    RAW = ({"globs": ["**/*.ulaw"], "encoding": "mulaw"}, {"globs": ["**/*.sln"], "encoding": "pcm_s16le"})

    def test_headerless_recordings_are_taken_by_their_names(self, folder, spec_for):
        put(folder, "a.ulaw", "b.sln", "c.wav")
        calls = found(spec_for(raw=self.RAW))
        assert calls["a"].parts[0].raw == RawCoding(encoding="mulaw", sample_rate_hz=8000, num_channels=1)
        assert calls["b"].parts[0].raw.encoding == "pcm_s16le"
        assert calls["c"].parts == ()

    def test_their_expected_speech_follows_from_their_size(self, folder, spec_for):
        put(folder, "a.ulaw", "b.sln", size=160_000)
        calls = found(spec_for(raw=self.RAW))
        assert calls["a"].expected_speech_s == pytest.approx(20 * 0.8)
        assert calls["b"].expected_speech_s == pytest.approx(10 * 0.8)

    def test_another_coding_is_another_version_of_these_recordings_only(self, folder, spec_for):
        put(folder, "a.ulaw", "c.wav")
        one = found(spec_for(raw=self.RAW))
        other = found(spec_for(raw=({"globs": ["**/*.ulaw"], "encoding": "alaw"},)))
        assert one["a"].version != other["a"].version
        assert one["c"].version == other["c"].version


ROW = {"path": "a.wav", "call_id": "c-17", "agent": "A7", "queue": "vip", "language": "de-DE", "campaign": "x"}


class TestManifest:
    def test_its_row_names_the_call_and_is_its_metadata(self, folder, spec_for, tmp_path):
        put(folder, "a.wav", "b.wav")
        result = find_calls(spec_for(manifest=write_csv(tmp_path / "m.csv", [ROW])), {})
        calls = {call.call_id: call for call in result.calls}
        assert calls.keys() == {"c-17", "b"}
        assert calls["c-17"].metadata == {"agent": "A7", "queue": "vip", "language": "de-DE"}
        assert calls["c-17"].language == "de"
        assert calls["b"].metadata == {}
        assert len(result.notes) == 2
        assert "campaign will not be in the outputs; input.metadata names what will be" in result.notes[0]
        assert result.notes[1] == "1 recordings have no row of metadata; they are taken without"

    def test_further_columns_are_carried_where_the_spec_names_them(self, folder, spec_for, tmp_path):
        put(folder, "a.wav")
        manifest = write_csv(tmp_path / "m.csv", [ROW])
        assert found(spec_for(manifest=manifest, metadata=["campaign"]))["c-17"].metadata == {"campaign": "x"}
        everything = found(spec_for(manifest=manifest, metadata=["*"]))["c-17"].metadata
        assert everything == {"agent": "A7", "queue": "vip", "language": "de-DE", "campaign": "x"}
        assert "has no column ticket" in refusal(spec_for(manifest=manifest, metadata=["ticket"]))

    def test_parquet_is_read_like_csv(self, folder, spec_for, tmp_path):
        put(folder, "a.wav")
        row = {
            "URI": str(folder / "a.wav"),
            "started_at": datetime(2026, 11, 25, 9, 30, tzinfo=UTC),
            "roles": ["customer", "agent"],
            "duration_s": 10,
            "queue": None,
        }
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
        call = found(spec_for(manifest=str(tmp_path / "m.parquet")))["a"]
        assert call.metadata == {"started_at": "2026-11-25T09:30:00+00:00"}
        assert call.parts[0].roles == ("customer", "agent")
        assert call.expected_speech_s == 8.0

    def test_a_spreadsheets_csv_is_read(self, folder, spec_for, tmp_path):
        put(folder, "a.wav")
        manifest = write_csv(tmp_path / "m.csv", [{"Path": "a.wav", " Queue ": "Söder, Nord"}], delimiter=";")
        assert found(spec_for(manifest=manifest))["a"].metadata == {"queue": "Söder, Nord"}

    def test_rows_may_name_recordings_by_call_id_alone(self, folder, spec_for, tmp_path):
        put(folder, "vip/2026-11-25/c1_agent.wav", "vip/2026-11-25/c1_customer.wav")
        rows = [{"call_id": "c1", "agent": "A7"}, {"call_id": "c9", "agent": "A8"}]
        manifest = write_csv(tmp_path / "m.csv", rows)
        result = find_calls(spec_for(manifest=manifest, name_pattern=PAIR), {})
        assert result.calls[0].metadata["agent"] == "A7"
        assert "1 of its call ids belong to no selected recording" in result.notes[-1]

    def test_rows_may_pair_files(self, folder, spec_for, tmp_path):
        put(folder, "l.wav", "r.wav")
        rows = [
            {"path": "r.wav", "call_id": "c", "role": "agent"},
            {"path": "l.wav", "call_id": "c", "role": "customer"},
        ]
        call = found(spec_for(manifest=write_csv(tmp_path / "m.csv", rows)))["c"]
        assert [Path(part.uri).name for part in call.parts] == ["r.wav", "l.wav"]

    def test_a_row_whose_file_is_not_there_is_a_call_all_the_same(self, folder, spec_for, tmp_path):
        put(folder, "a.wav")
        manifest = write_csv(tmp_path / "m.csv", [ROW, {**ROW, "path": "gone.wav", "call_id": "c-18"}])
        gone = found(spec_for(manifest=manifest))["c-18"]
        assert (gone.version, gone.size_bytes, gone.metadata["agent"]) == ("", 0, "A7")

    @pytest.mark.parametrize(
        ("rows", "complaint"),
        [
            ([{"path": "a.wav"}, {"path": "./a.wav"}], "row 2 repeats path ./a.wav"),
            ([{"path": "a.wav", "call_id": "c"}, {"path": "b.wav", "call_id": "c"}], "call_id c: "),
            ([{"call_id": "c"}, {"call_id": "c"}], "row 2 repeats call_id c"),
            ([{"path": "a.wav"}, {"path": "", "queue": "vip"}], "row 2 has no path"),
            ([{"name": "a.wav"}], r"none of its columns (name) is uri, path or call_id"),
            ([{"path": "a.wav", "language": "German!"}], "says language German!, not a code"),
            ([{"path": "a.wav", "duration_s": "2 min"}], "says duration_s 2 min, not a number"),
        ],
        ids=["path twice", "id twice", "id alone twice", "no path", "no key", "language", "duration"],
    )
    def test_a_manifest_that_contradicts_itself_is_refused_in_a_line(self, folder, spec_for, tmp_path, rows, complaint):
        put(folder, "a.wav", "b.wav")
        columns = {name: "" for row in rows for name in row}
        assert complaint in refusal(spec_for(manifest=write_csv(tmp_path / "m.csv", [{**columns, **r} for r in rows])))

    @pytest.mark.parametrize(
        ("name", "content", "complaint"),
        [
            ("m.csv", None, "there is no such file; check input.manifest"),
            ("m.csv", b"", "is empty"),
            ("m.csv", b"path,queue\na.wav,vip,more\n", "row 1 has 3 cells where the header has 2"),
            ("m.csv", b"path,path\na.wav,b.wav\n", "has two columns path"),
            ("m.csv", b"path,queue\na.wav,\xff\xfe\n", "is not UTF-8"),
            ("m.csv", b'path,queue\na.wav,"vip\n', "is not CSV"),
            ("m.parquet", b"path,queue\n", "is not a Parquet file"),
            ("m.xlsx", b"PK", "ends in neither .csv nor .parquet"),
        ],
    )
    def test_a_manifest_that_cannot_be_read_is_refused_in_a_line(
        self, folder, spec_for, tmp_path, name, content, complaint
    ):
        put(folder, "a.wav")
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert complaint in refusal(spec_for(manifest=str(tmp_path / name)))


class TestManifestAsListing:
    def test_the_input_may_be_the_manifest(self, folder, tmp_path):
        put(folder, "a.wav", "b.wav", "c.wav")
        rows = [{"path": "calls/a.wav", "queue": "vip"}, {"path": str(folder / "b.wav"), "queue": ""}]
        manifest = write_csv(tmp_path / "m.csv", rows)
        calls = found(parse_spec({"input": {"uri": manifest}, "output": {"uri": str(tmp_path / "out")}}))
        assert calls.keys() == {"calls__a", "calls__b"}
        assert calls["calls__a"].metadata == {"queue": "vip"}
        assert calls["calls__a"].size_bytes == 16_000

    def test_size_and_etag_in_the_rows_spare_asking_s3(self, tmp_path):
        rows = [{"uri": f"s3://nowhere/{i}.wav", "size_bytes": "16000", "etag": f'"{i}"'} for i in range(3)]
        manifest = write_csv(tmp_path / "m.csv", rows)
        calls = found(parse_spec({"input": {"uri": manifest}, "output": {"uri": str(tmp_path / "out")}}))
        assert {(call.uri, call.version, call.size_bytes) for call in calls.values()} == {
            (f"s3://nowhere/{i}.wav", str(i), 16_000) for i in range(3)
        }

    def test_a_manifest_of_call_ids_is_no_listing(self, tmp_path):
        manifest = write_csv(tmp_path / "m.csv", [{"call_id": "1"}])
        assert "no column uri or path" in refusal(parse_spec({"input": {"uri": manifest}}))


class TestSidecars:
    def test_a_flat_object_beside_a_recording_is_its_metadata(self, folder, spec_for):
        put(folder, "a.wav", "b.wav", "c.wav")
        (folder / "a.json").write_text(json.dumps({"call_id": "c1", "agent": 7, "turns": [{"text": "secret"}]}))
        (folder / "b.json").write_text("[]")
        result = find_calls(spec_for(sidecars=True), {})
        assert {call.call_id: call.metadata for call in result.calls} == {"c1": {"agent": "7"}, "b": {}, "c": {}}
        assert "1 sidecars are not JSON objects" in result.notes[-1]

    def test_they_are_not_read_unless_asked_for(self, folder, spec_for):
        put(folder, "a.wav")
        (folder / "a.json").write_text(json.dumps({"agent": 7}))
        assert found(spec_for())["a"].metadata == {}


class TestPersonalValues:
    ROWS = ({"path": "a.wav", "agent": "jane.doe@example.com", "queue": "217-555-0142"},)

    def metadata(self, spec_for, folder, tmp_path, redact):
        put(folder, "a.wav")
        result = find_calls(spec_for(manifest=write_csv(tmp_path / "m.csv", self.ROWS), redact=redact), {})
        return result.calls[0].metadata, result.notes

    def test_they_are_removed_and_counted(self, spec_for, folder, tmp_path):
        metadata, notes = self.metadata(spec_for, folder, tmp_path, {})
        assert metadata == {"agent": "[REMOVED]", "queue": "[REMOVED]"}
        assert any("1 values of agent look personal and are replaced" in note for note in notes)

    def test_with_a_key_they_stay_apart(self, spec_for, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("KEY", "secret")
        metadata, _ = self.metadata(spec_for, folder, tmp_path, {"mode": "hash", "hash_key_env": "KEY"})
        assert len(set(metadata.values())) == 2
        assert all(len(value) == 12 for value in metadata.values())

    def test_they_stay_where_unredacted_text_does(self, spec_for, folder, tmp_path):
        metadata, _ = self.metadata(spec_for, folder, tmp_path, {"mode": "store_unredacted"})
        assert metadata["agent"] == "jane.doe@example.com"


def test_new_metadata_reaches_calls_that_are_planned_and_a_plan_survives_its_storage(folder, spec_for, tmp_path):
    put(folder, "a.ulaw", "b.wav")
    raw = [{"globs": ["**/*.ulaw"], "encoding": "mulaw"}]
    ledger = Ledger(str(tmp_path / "out"))
    spec = spec_for(raw=raw, manifest=write_csv(tmp_path / "m.csv", [{"path": "a.ulaw", "queue": "vip"}]))
    first = make_plan(spec, ledger)
    persist(first, ledger)
    again = make_plan(spec, ledger)
    assert again.partitions == first.partitions
    assert len(again.resumed) == len(first.partitions)
    write_csv(tmp_path / "m.csv", [{"path": "a.ulaw", "queue": "billing"}])
    changed = make_plan(spec, ledger)
    queues = {call.call_id: call.metadata.get("queue") for p in changed.partitions for call in p.calls}
    assert queues == {"a": "billing", "b": None}
