"""What differs between two JSON values."""

from latentsmith.utils.compare import differences


def test_differences_name_paths_and_both_values():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}) == [
        "a.b: 3 there, 1 wanted"
    ]
    assert differences({"a": 1}, {"a": 1}) == []
    assert differences({"a": {"b": 1}}, {}) == ["a: None there, {'b': 1} wanted"]
