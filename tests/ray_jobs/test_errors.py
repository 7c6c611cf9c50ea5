"""Errors cross process borders: what is raised in a worker arrives with its message and attributes."""

import pickle

import pytest

from ray_jobs import errors


@pytest.mark.parametrize(
    "kind",
    [
        errors.PipelineError,
        errors.RetryableError,
        errors.FatalError,
        errors.SpecError,
        errors.ModelError,
        errors.OutputError,
    ],
)
def test_a_pipeline_error_survives_pickling(kind: type[errors.PipelineError]) -> None:
    again = pickle.loads(pickle.dumps(kind("whisper-base: model.bin is truncated")))
    assert type(again) is kind
    assert str(again) == "whisper-base: model.bin is truncated"


def test_a_call_error_survives_pickling_with_its_code() -> None:
    again = pickle.loads(pickle.dumps(errors.CallError("truncated", "1.0 s where 60.0 s are promised")))
    assert (again.code, again.reason) == ("truncated", "1.0 s where 60.0 s are promised")
    assert str(again) == "truncated: 1.0 s where 60.0 s are promised"


def test_an_error_is_either_worth_retrying_or_a_reason_to_stop() -> None:
    assert not issubclass(errors.RetryableError, errors.FatalError)
    assert issubclass(errors.ModelError, errors.FatalError)
