"""Names: any path makes an id that can be a file name."""

from hypothesis import given
from hypothesis import strategies as st

from spark_etl.naming import _call_id


@given(st.text(min_size=1, max_size=300).filter(lambda name: "/" not in name and "\0" not in name))
def test_any_name_makes_a_safe_id(name):
    call_id = _call_id(f"{name}.wav")
    assert 0 < len(call_id) < 200
    assert not call_id.startswith(".")
    assert all(character.isascii() and (character.isalnum() or character in "._-") for character in call_id)
