"""What a run says beside its numbers."""

from ray_jobs.run import cautions
from ray_jobs.spec import RunSpec


def spec(**redact: object) -> RunSpec:
    return RunSpec.model_validate({"input": {"uri": "calls"}, "redact": redact})


def test_redaction_without_a_named_entity_model_is_said() -> None:
    (caution,) = cautions(spec(ner_model=None))
    assert caution.startswith("redact.ner_model is null")
    assert cautions(spec()) == []
    assert cautions(spec(ner_model=None, mode="store_unredacted")) == [], "the report says that nothing was redacted"
