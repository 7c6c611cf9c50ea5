"""Hiding a module from imports, and giving it back."""

import importlib
import sys

import pytest

from ray_jobs.engines.lean_imports import imported_without

RARE = "this"  # a module of Python's that nobody imports


@pytest.fixture(autouse=True)
def forgotten():
    sys.modules.pop(RARE, None)
    yield
    sys.modules.pop(RARE, None)


def test_a_hidden_module_is_not_found_and_comes_back() -> None:
    with imported_without(RARE), pytest.raises(ModuleNotFoundError):
        importlib.import_module(RARE)
    assert importlib.import_module(RARE).__name__ == RARE


def test_it_comes_back_when_what_was_imported_within_raises() -> None:
    with pytest.raises(OSError, match="within"), imported_without(RARE):
        raise OSError("within")
    assert importlib.import_module(RARE).__name__ == RARE


def test_what_is_imported_already_stays() -> None:
    module = importlib.import_module(RARE)
    with imported_without(RARE):
        assert importlib.import_module(RARE) is module
    assert sys.modules[RARE] is module
