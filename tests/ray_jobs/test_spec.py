"""The run specification: mistakes are named; fingerprints change with what shapes the output, not with the speed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.errors import SpecError
from ray_jobs.spec import STAGES, WAITING_CPUS, PriceSpec, RunSpec, load_spec, parse_spec

INPUT = {"input": {"uri": "calls"}}
PRICE = {"prompt_usd": 1.0, "completion_usd": 5.0}
ENDPOINT = {"engine": "openai_endpoint", "endpoint": {"url": "http://host/v1"}}


def changed(**sections: Any) -> set[str]:
    """The stages whose fingerprints differ from the default spec's."""
    default, other = parse_spec(INPUT).fingerprints(), parse_spec({**INPUT, **sections}).fingerprints()
    return {stage for stage in STAGES if default[stage] != other[stage]}


class TestMistakes:
    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ({"inptu": {"uri": "x"}}, "unknown key inptu; did you mean input?"),
            ({**INPUT, "asr": {"modle": "x"}}, "unknown key asr.modle; did you mean model?"),
            (
                {**INPUT, "llm": {"tasks": [{"name": "a", "promt": "x"}]}},
                "unknown key llm.tasks.0.promt; did you mean prompt?",
            ),
            ({**INPUT, "asr": {"zzz": 1}}, "unknown key asr.zzz; valid keys are engine, model"),
            ({}, "input is missing; set it, or pass --input"),
            ({**INPUT, "etl": {"vad": {"threshold": 2}}}, r"etl.vad.threshold: .*less than 1 \(got 2\)"),
            ({**INPUT, "asr": {"actors": {"min_actors": 3}}}, "asr.actors: min_actors 3 is above max_actors 1"),
            ({**INPUT, "asr": {"actors": {"num_gpus": 1.5}}}, "asr.actors.num_gpus: above 1 it is a whole number"),
            ({**INPUT, "asr": {"engine": "ctc_torch", "beam_size": 5}}, "asr: beam_size 5: ctc_torch decodes greedily"),
            (
                {**INPUT, "asr": {"engine": "whisper_vllm", "compute_type": "int8"}},
                "asr: compute_type int8: whisper_vllm takes auto, float32",
            ),
            (
                {**INPUT, "asr": {"engine": "whisper_torch", "compute_type": "int8"}},
                "asr: compute_type int8: whisper_torch takes auto, float32",
            ),
            (
                {**INPUT, "asr": {"engine": "faster_whisper", "timestamps": True}},
                "asr: timestamps: faster_whisper has no such choice; set false",
            ),
            ({**INPUT, "llm": {"actors": {"num_gpus": 0.5}}}, "llm: gpu_memory_fraction 0.9 is above .*num_gpus 0.5"),
            ({**INPUT, "redact": {"mode": "off"}}, "redact.mode: .*'drop' or 'store_unredacted'"),
            ({**INPUT, "redact": {"entities": ["PRESON"]}}, "redact.entities.0: Input should be 'PERSON'"),
            ({**INPUT, "redact": {"mode": "hash"}}, "redact: mode hash needs hash_key_env"),
            ({**INPUT, "redact": {"patterns": {"CLAIM": "("}}}, "CLAIM is not a regular expression"),
            (
                {**INPUT, "redact": {"mode": "store_unredacted", "muted_audio": True}},
                "redact: muted_audio has no secrets to mute under mode store_unredacted",
            ),
            ({**INPUT, "redact": {"llm": {"model": "big"}}}, "redact.llm.endpoint is missing"),
            ({**INPUT, "partitions_ahead": 1, "etl": {"spark": {"num_executors": 4}}}, "is below one wave of Spark"),
            ({**INPUT, "llm": {"engine": "openai_endpoint"}}, "llm: engine openai_endpoint needs endpoint: {url"),
            ({**INPUT, "llm": {"endpoint": {"url": "http://h/v1"}}}, "llm: endpoint: engine vllm_local asks no server"),
            (
                {**INPUT, "llm": {"engine": "openai_endpoint", "endpoint": {"url": "h:8000"}}},
                r"llm.endpoint.url: .*\(got 'h:8000'\)",
            ),
            (
                {**INPUT, "llm": {"engine": "openai_endpoint", "endpoint": {"url": "http://h/v1", "key": "x"}}},
                "unknown key llm.endpoint.key; ",
            ),
            ({**INPUT, "llm": {**ENDPOINT, "actors": {"num_gpus": 1}}}, "openai_endpoint runs no model here; leave"),
            (
                {**INPUT, "llm": {"tasks": [{"name": "a", "prompt": "poem/v1"}]}},
                "no prompt poem/v1; there are .*summary/v1",
            ),
            (
                {**INPUT, "llm": {"tasks": [{"name": "a", "prompt": "poem.yaml"}]}},
                r"prompt poem.yaml: cannot be read \(No such file",
            ),
            (
                {**INPUT, "llm": {"tasks": [{"name": "a", "prompt": "poem.yaml", "prompt_text": "{{x}}"}]}},
                "prompt poem.yaml: ",
            ),
            (
                {**INPUT, "llm": {"judges": [{"name": "q", "task": "sumary"}]}},
                "q judges task sumary; there are summary, d",
            ),
            ({**INPUT, "llm": {"judges": [{"name": "summary", "task": "summary"}]}}, "two tasks share a name"),
            (
                {**INPUT, "llm": {"judges": [{"name": "q", "task": "summary", "model": "big"}]}},
                "llm.judges.0: a judge with a model of its own needs both model and endpoint",
            ),
            (
                {**INPUT, "llm": {"prices": {"gpt": PRICE}}},
                "prices: model gpt answers nothing in this run; there are smol",
            ),
            ({**INPUT, "llm": {"prices": {"gpt": {**PRICE, "usd": 1}}}}, "unknown key llm.prices.gpt.usd; "),
            ({**INPUT, "llm": {"prices": {"gpt": {**PRICE, "prompt_usd": -1}}}}, "llm.prices.gpt.prompt_usd: "),
        ],
    )
    def test_each_is_one_line_that_names_the_key_and_the_fix(self, document: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            parse_spec(document)

    def test_a_file_that_is_no_mapping_or_no_yaml_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "spec.yaml"
        for text, message in (("- a\n", "holds a list"), ("a: [", "is not YAML")):
            path.write_text(text)
            with pytest.raises(SpecError, match=message):
                load_spec(path)
        with pytest.raises(SpecError, match=r"gone.yaml: cannot be read \(No such file"):
            load_spec(tmp_path / "gone.yaml")

    def test_the_command_line_is_laid_over_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "spec.yaml"
        path.write_text("input: {uri: a, limit: 3}\n")
        spec = load_spec(path, {"input.uri": "b", "output.uri": "c"})
        assert (spec.input.uri, spec.input.limit, spec.output.uri) == ("b", 3, "c")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
        )
    )
    def test_any_document_is_a_spec_or_a_spec_error(self, document: Any) -> None:
        if isinstance(document, dict):
            with pytest.raises(SpecError):  # none of these happens to hold a valid input.uri
                parse_spec(document)


class TestFingerprints:
    def test_stages_are_chained(self) -> None:
        assert changed(etl={"vad": {"pad_ms": 100}}) == {"etl", "asr", "redact", "analyse"}
        assert changed(asr={"model": "large-v3"}) == {"asr", "redact", "analyse"}
        assert changed(channels={"roles": ["customer", "agent"]}) == {"asr", "redact", "analyse"}
        assert changed(redact={"entities": ["PERSON"]}) == {"redact", "analyse"}
        assert changed(redact={"muted_audio": True}) == {"redact", "analyse"}
        assert changed(llm={"seed": 1}) == {"analyse"}

    def test_a_reader_of_secrets_shapes_redaction_and_where_it_is_asked_does_not(self) -> None:
        here, there = ({"model": "big", "endpoint": {"url": f"http://{host}/v1"}} for host in ("here", "there"))
        assert changed(redact={"llm": here}) == {"redact", "analyse"}
        specs = [parse_spec({**INPUT, "redact": {"llm": reader}}) for reader in (here, there)]
        assert specs[0].fingerprints() == specs[1].fingerprints()

    def test_settings_of_speed_are_in_none(self) -> None:
        assert not changed(
            etl={"spark": {"num_executors": 3}, "partition": {"max_calls": 7}, "file_timeout_s": 9},
            asr={"batch_size": 4, "actors": {"max_actors": 64, "num_gpus": 1}},
            llm={"kv_cache_gib": 8, "max_batch": 256, "gpu_memory_fraction": 0.5},
            partitions_ahead=40,
            output={"uri": "elsewhere"},
        )

    def test_the_model_behind_an_endpoint_shapes_answers_and_its_address_does_not(self) -> None:
        here = parse_spec({**INPUT, "llm": ENDPOINT})
        moved = parse_spec({**INPUT, "llm": {**ENDPOINT, "endpoint": {"url": "http://other/v1", "timeout_s": 5}}})
        other = parse_spec({**INPUT, "llm": {**ENDPOINT, "model": "other"}})
        assert here.fingerprints() == moved.fingerprints()
        assert here.fingerprints()["analyse"] != other.fingerprints()["analyse"]

    def test_who_judges_and_by_what_shapes_the_analyses_and_a_price_does_not(self) -> None:
        judge = {"name": "q", "task": "summary"}
        assert changed(llm={"judges": [judge]}) == {"analyse"}
        assert not changed(llm={"prices": {"smollm2-135m-instruct": PRICE}})
        here, there, stern = (
            parse_spec({**INPUT, "llm": {"judges": [{**judge, "model": "m", **more}]}}).fingerprints()["analyse"]
            for more in (
                {"endpoint": {"url": "http://here/v1"}},
                {"endpoint": {"url": "http://there/v1"}},
                {"endpoint": {"url": "http://here/v1"}, "rubric": "Is it perfect?"},
            )
        )
        assert here == there
        assert here != stern

    def test_they_are_the_same_on_every_machine(self) -> None:
        assert parse_spec(INPUT).fingerprints() == parse_spec({"input": {"uri": "other"}}).fingerprints()


def test_roles_name_channels_and_a_mono_call_has_its_own() -> None:
    channels = parse_spec(INPUT).channels
    assert [channels.role(i, 3) for i in range(3)] == ["agent", "customer", "channel_2"]
    assert channels.role(0, 1) == "mixed"


def test_an_actor_that_only_waits_for_a_server_takes_next_to_no_slot() -> None:
    assert parse_spec({**INPUT, "llm": ENDPOINT}).llm.actors.num_cpus == WAITING_CPUS
    assert parse_spec({**INPUT, "llm": {**ENDPOINT, "actors": {"num_cpus": 2}}}).llm.actors.num_cpus == 2


PROMPT = "{system: Be brief., user: 'Mood? {{transcript}}', schema: {type: object}}"


def spec_with_prompt(folder: Path, text: str) -> RunSpec:
    (folder / "mood.yaml").write_text(text)
    (folder / "spec.yaml").write_text("{input: {uri: a}, llm: {tasks: [{name: mood, prompt: mood.yaml}]}}")
    return load_spec(folder / "spec.yaml")


def test_a_prompt_file_is_found_beside_the_spec_and_travels_in_it(tmp_path: Path) -> None:
    spec = spec_with_prompt(tmp_path, PROMPT)
    (tmp_path / "mood.yaml").unlink()
    elsewhere = parse_spec(spec.model_dump(mode="json"))
    assert elsewhere.llm.tasks[0].file.user == "Mood? {{transcript}}"
    assert elsewhere.fingerprints() == spec.fingerprints()


def test_other_words_in_a_prompt_file_are_another_analysis(tmp_path: Path) -> None:
    before = spec_with_prompt(tmp_path, PROMPT).fingerprints()
    after = spec_with_prompt(tmp_path, PROMPT.replace("brief", "kind")).fingerprints()
    assert {stage for stage in STAGES if before[stage] != after[stage]} == {"analyse"}


def test_an_unknown_variable_in_a_prompt_file_is_refused_with_the_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"prompt mood\.yaml: unknown variable customer; there are tr"):
        spec_with_prompt(tmp_path, PROMPT.replace("Mood?", "{{customer}}"))


def test_tokens_cost_what_the_price_says() -> None:
    assert PriceSpec(prompt_usd=1.0, completion_usd=5.0).cost_usd(20, 4) == pytest.approx((20 * 1.0 + 4 * 5.0) / 1e6)


def test_the_reader_of_secrets_may_have_its_price() -> None:
    reader = {"model": "reader", "endpoint": {"url": "http://127.0.0.1:1/v1"}}
    document = {**INPUT, "redact": {"llm": reader}, "llm": {"prices": {"reader": PRICE}}}
    assert RunSpec.model_validate(document).llm.prices["reader"].prompt_usd == PRICE["prompt_usd"]
