"""Configs survive the disk, and two of them can be compared."""

import pytest

from latentsmith.config.compose import compose
from latentsmith.config.saved import ABSENT, diff, from_yaml, to_yaml
from latentsmith.errors import UserError

pytestmark = pytest.mark.usefixtures("toy")

VARIANTS = [
    [],
    ["scale=smoke", "spare=diesel", "more.x=big_steam", "labels.a=1"],
    ["law=sum", "law.terms.a=teacher", "pretrain.lr=1e-7", "pretrain.micro_batch=3"],
    ["data=folder", "data.path=/some/where", "pretrain.betas=[0.1,0.2]"],
]


@pytest.mark.parametrize("words", VARIANTS)
def test_reloading_gives_an_equal_object(words):
    config = compose("toy", words)
    again = from_yaml(to_yaml(config))
    assert again == config
    assert type(again) is type(config)
    assert diff(config, again) == []


def test_diff_lists_each_changed_key_with_both_values():
    old = compose("toy", [])
    new = compose("toy", ["pretrain.lr=0.1", "engine=diesel", "~more.rival"])
    assert sorted(diff(old, new)) == sorted(
        [
            ("pretrain.lr", 3e-4, 0.1),
            ("engine.kind", "steam", "diesel"),
            ("engine.pressure", 2.0, ABSENT),
            ("engine.tubes", 8, ABSENT),
            ("engine.injection", ABSENT, "direct"),
            ("more.rival.kind", "diesel", ABSENT),
            ("more.rival.injection", "direct", ABSENT),
            ("more.rival.oiled", True, ABSENT),
            ("more", ABSENT, {}),
        ]
    )


def test_settings_of_another_version_are_refused_by_name():
    text = to_yaml(compose("toy")) + "gone: 3\n"
    with pytest.raises(UserError) as caught:
        from_yaml(text, where="runs/x/config.yaml")
    assert "runs/x/config.yaml does not fit this version of latentsmith" in str(caught.value)
    assert "gone: no such setting here" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a: [", "is not valid YAML"),
        ("[1]", "holds no recipe settings"),
        ("kind: nope", "no recipe 'nope'"),
    ],
)
def test_text_that_is_no_config(text, answer):
    with pytest.raises(UserError, match=answer):
        from_yaml(text)
