"""Presets, groups and overrides become typed objects; order and syntax are as documented."""

from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from latentsmith.config.compose import check, choices_of, compose
from latentsmith.config.run import default_path
from latentsmith.errors import UserError
from toy.toy_recipe import Diesel, Dots, DriveConfig, Folder, Linear, Steam, Sum, Teacher

pytestmark = pytest.mark.usefixtures("toy")


def test_defaults_come_from_dataclasses_then_config_yaml():
    config = compose("toy")
    assert config.data == Dots(count=10)
    assert config.engine == Steam()
    assert config.pretrain == DriveConfig(lr=3e-4, samples=200)  # config.yaml, then the scale
    assert config.finetune == DriveConfig(samples=500, lr=2e-5)  # the field's own factory
    assert config.law == Linear(weight=0.5)  # a choice's default instance keeps its values
    assert config.more == {"rival": Diesel()}
    assert config.spare is None


def test_a_run_without_a_scale_is_at_laptop_scale():
    assert compose("toy") == compose("toy", ["scale=laptop"])
    assert default_path("toy", []) == default_path("toy", ["scale=laptop"])
    assert default_path("unknown", []).name == "default"


def test_later_layers_win():
    words = ["scale=laptop", "experiment=rivalry"]
    assert compose("toy", ["scale=laptop"]).pretrain.samples == 200
    assert compose("toy", words).pretrain.samples == 77
    assert compose("toy", words).pretrain.lr == 2e-4
    assert compose("toy", [*words, "pretrain.samples=3"]).pretrain.samples == 3
    assert compose("toy", words[::-1]).pretrain.samples == 77  # typing order of groups is free


def test_swapping_a_choice_leaves_nothing_of_the_old_one():
    assert compose("toy", ["engine=diesel"]).engine == Diesel()
    swapped = compose("toy", ["engine=diesel", "engine.injection=chamber"])
    assert swapped.engine == Diesel(injection="chamber")
    assert compose("toy", ["law=teacher"]).law == Teacher(engine=Diesel())


def test_a_preset_is_an_option_of_its_group():
    assert compose("toy", ["engine=big_steam"]).engine == Steam(pressure=12.0)
    assert compose("toy", ["engine=big_steam", "engine.tubes=4"]).engine == Steam(
        pressure=12.0, tubes=4
    )


def test_an_experiment_may_swap_and_add_choices():
    config = compose("toy", ["experiment=rivalry"])
    assert config.engine == Diesel()
    assert config.more == {"rival": Diesel(), "third": Steam(pressure=12.0)}
    assert compose("toy", ["experiment=rivalry", "engine=steam"]).engine == Steam()


@pytest.mark.parametrize("word", ["more.x=big_steam", "engine@more.x=big_steam"])
def test_a_new_entry_of_a_mapping_by_path_or_in_hydra_style(word):
    config = compose("toy", [word, "more.x.tubes=6"])
    assert config.more == {"rival": Diesel(), "x": Steam(pressure=12.0, tubes=6)}


@pytest.mark.parametrize("word", ["more.rival=steam", "engine@more.rival=steam"])
def test_an_existing_entry_is_replaced(word):
    assert compose("toy", [word]).more == {"rival": Steam()}


@pytest.mark.parametrize("word", ["more.rival=null", "~more.rival", "~engine@more.rival"])
def test_an_entry_can_be_taken_away(word):
    assert compose("toy", [word]).more == {}


def test_an_optional_choice_is_chosen_and_unchosen():
    assert compose("toy", ["spare=diesel"]).spare == Diesel()
    assert compose("toy", ["spare=diesel", "spare=null"]).spare is None


def test_choices_inside_choices():
    config = compose("toy", ["law=teacher", "law.engine=big_steam", "law.engine.tubes=2"])
    assert config.law == Teacher(engine=Steam(pressure=12.0, tubes=2))
    words = ["law=sum", "law.terms.a=linear", "law.terms.b=teacher", "law.terms.b.engine=steam"]
    assert compose("toy", words).law == Sum(terms={"a": Linear(), "b": Teacher(engine=Steam())})


def test_values_reach_their_types():
    words = ["pretrain.betas=[0.8,0.9]", "pretrain.micro_batch=4", "labels.cat=3", "seed=7"]
    config = compose("toy", [*words, "data=folder", "data.path=a/b"])
    assert config.pretrain.betas == (0.8, 0.9)
    assert config.pretrain.micro_batch == 4
    assert config.labels == {"cat": 3}
    assert config.seed == 7
    assert config.data == Folder(path=Path("a/b"))
    assert compose("toy", ["pretrain.lr=1e-3"]).pretrain.lr == 1e-3


def test_the_last_of_two_overrides_holds():
    assert compose("toy", ["seed=1", "seed=2"]).seed == 2
    assert compose("toy", ["engine=diesel", "engine=steam"]).engine == Steam()


def test_choices_of_tells_where_each_group_stands():
    choices = choices_of("toy", ["experiment=when", "engine=diesel"])
    assert choices["scale"] == "laptop"
    assert choices["engine"] == "diesel"
    assert choices["engine@more.rival"] == "diesel"


def test_hydras_process_wide_store_is_left_alone():
    before = ConfigStore.instance().repo
    keys = set(before)
    compose("toy")
    assert ConfigStore.instance().repo is before
    assert set(before) == keys


def test_a_config_built_in_python_can_be_checked(toy):
    good = toy(data=Dots(), engine=Steam())
    assert check(good) == good
    with pytest.raises(UserError, match=r"pretrain\.lr: should be greater than 0 \(got -1\)"):
        check(toy(data=Dots(), engine=Diesel(), pretrain=DriveConfig(lr=-1)))


def test_what_a_preset_sets_inside_a_choice_goes_with_its_option():
    """scale=smoke sets engine.pressure for steam, law.weight and more.rival.injection."""
    kept = compose("toy", ["scale=smoke", "engine=steam"])
    assert kept.engine == Steam(pressure=3.0, oiled=False)
    swapped = compose("toy", ["scale=smoke", "engine=diesel", "more.rival=steam", "law=teacher"])
    assert swapped.engine == Diesel(oiled=False)  # no pressure left to complain about
    assert swapped.more["rival"] == Steam()
    assert swapped.law == Teacher()
    another = compose("toy", ["scale=smoke", "engine=big_steam", "engine.tubes=2"])
    assert another.engine == Steam(pressure=12.0, tubes=2, oiled=False)  # not 3.0


def test_what_all_kinds_of_a_family_share_stays_when_one_is_swapped():
    before = compose("toy", ["scale=smoke"]).engine.oiled
    assert before != Steam().oiled
    assert compose("toy", ["scale=smoke", "engine=diesel"]).engine.oiled == before


def test_what_a_preset_says_of_one_option_holds_for_it_alone():
    """experiment=when has ``when: {engine=diesel: {injection: chamber}}`` and more."""
    assert compose("toy", ["experiment=when"]).engine == Steam()
    assert compose("toy", ["experiment=when", "engine=diesel"]).engine == Diesel(
        injection="chamber"
    )
    typed = compose("toy", ["experiment=when", "engine=diesel", "engine.injection=direct"])
    assert typed.engine == Diesel(injection="direct")
    assert compose("toy", ["experiment=when", "law=teacher"]).law == Teacher(
        engine=Diesel(oiled=False)
    )
    more = compose("toy", ["experiment=when", "more.rival=diesel"]).more["rival"]
    assert more == Diesel(injection="chamber"), "an entry of a mapping, where it is there"
    filled = compose("toy", ["experiment=when", "engine=loaded"]).engine
    assert filled.fuel == Path("shed"), "required settings may come from there too"


def test_a_condition_that_names_no_choice_is_a_mistake_in_the_preset(toy):
    from omegaconf import OmegaConf

    from latentsmith.config.compose import _apply_when

    wrong = OmegaConf.create({"when": {"pretrain=x": {"samples": 1}}, "pretrain": {}})
    with pytest.raises(ValueError, match="names no choice"):
        _apply_when(toy, wrong)
