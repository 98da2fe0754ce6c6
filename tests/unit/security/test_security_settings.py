"""Settings are data: no value of one reaches code, whoever wrote it."""

import pytest
from omegaconf import OmegaConf

from latentsmith.config.compose import compose
from latentsmith.config.saved import from_yaml, to_yaml
from latentsmith.data.settings import dataset_config
from latentsmith.errors import UserError


@pytest.fixture
def resolver():
    """One that somebody registered in this process; gives whether it was called."""
    calls: list[str] = []
    OmegaConf.register_new_resolver("run", lambda what: calls.append(what) or "0")
    yield calls
    OmegaConf.clear_resolver("run")


@pytest.mark.parametrize(
    "word",
    [
        "seed=${run:x}",
        "seed=${ run : x }",
        "seed=${oc.env:HOME}",
        "seed=${oc.decode:1}",
        "scale=${run:x}",
        "encoder=${run:x}",
        "data={kind: digits, root: '${run:x}'}",
        "terms={'${run:x}': 1}",
        'label="${run:x}"',
        r"label=\\${run:x}",
        "seed=${pretrain.${run:x}}",
        "~seed=${run:x}",
    ],
)
def test_a_value_calls_nothing(resolver, monkeypatch, word):
    monkeypatch.setenv("HOME", "a-secret")
    with pytest.raises(UserError) as caught:
        compose("mmreg", ["scale=smoke", word])
    assert not resolver and "a-secret" not in str(caught.value)


def test_other_settings_may_be_meant():
    config = compose("mmreg", ["scale=smoke", "seed=${pretrain.samples}"])
    assert config.seed == config.pretrain.samples


def test_the_signs_themselves_may_be_written(resolver):
    words = ["generator=x", r'prompts=["\${run:x}"]']
    assert compose("sample", words).prompts == ["${run:x}"] and not resolver


@pytest.mark.parametrize("key", ["_target_", "data._target_", "encoder._target_"])
def test_no_setting_names_code(key):
    with pytest.raises(UserError, match="no such setting"):
        compose("mmreg", ["scale=smoke", f"{key}=os.getcwd"])


def test_no_kind_names_code():
    for kind in ("os.getcwd", "latentsmith.data.digits.DigitsConfig"):
        with pytest.raises(UserError, match="no such"):
            compose("mmreg", ["scale=smoke", f"data={kind}"])
        with pytest.raises(UserError, match="no dataset"):
            dataset_config(kind, [])


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.mkdir ['PATH']", "kind: !!python/name:os.mkdir ''"]
)
def test_yaml_makes_no_objects(tmp_path, text):
    there = text.replace("PATH", str(tmp_path / "it-ran"))
    with pytest.raises(UserError, match="is not valid YAML"):
        from_yaml(there)
    with pytest.raises(UserError, match="cannot read this value"):
        dataset_config("digits", [f"train_count={there}"])
    assert not any(tmp_path.iterdir())


def test_what_a_run_saved_is_not_resolved_again(resolver):
    """A path may be called so; reading it back gives the very path."""
    config = compose("sample", ["generator=x", r'prompts=["\${run:x}"]'])
    assert from_yaml(to_yaml(config)) == config and not resolver
