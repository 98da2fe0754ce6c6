"""What a mistaken setting answers: where, what, and what would be right."""

import pytest

from latentsmith.config.compose import compose
from latentsmith.errors import UserError

pytestmark = pytest.mark.usefixtures("toy")


def problems(*words: str) -> list[str]:
    """The lines below the heading."""
    with pytest.raises(UserError) as caught:
        compose("toy", list(words))
    head, *lines = str(caught.value).splitlines()
    assert head.endswith("in the settings of toy:")
    assert head.startswith("problem" if len(lines) == 1 else f"{len(lines)} problems")
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        # A name that is not there.
        ("lr=3", "lr: no such setting. Did you mean pretrain.lr or finetune.lr?"),
        ("pretrain.lrr=3", "pretrain.lrr: no such setting. Did you mean pretrain.lr?"),
        ("pretrian.lr=3", "pretrian.lr: no such setting. Did you mean pretrain.lr or finetune.lr?"),
        ("scal=smoke", "scal: no such setting. Did you mean scale?"),
        (
            "pretrain.colour=3",
            "pretrain.colour: no such setting. pretrain has: pretrain.samples, pretrain.lr, "
            "pretrain.betas, pretrain.micro_batch, pretrain.schedule, pretrain.trackers.",
        ),
        (
            "colour=3",
            "colour: no such setting. Known: data, seed, engine, spare, law, more, pretrain, "
            "finetune, labels, fail, scale, experiment.",
        ),
        (
            "engine.injection=direct",
            "engine.injection: injection is a setting of engine=diesel, not of engine=steam",
        ),
        (
            "spare.pressure=3",
            "spare.pressure: nothing is chosen for spare yet; add spare=NAME, one of: diesel, "
            "loaded, steam",
        ),
        (
            "zzzz@more.x=big",
            "zzzz@more.x: no group 'zzzz'. Known: data, engine, experiment, law, scale.",
        ),
        # A choice that is not there.
        (
            "scale=laptap",
            "scale=laptap: no such scale. Did you mean 'laptop'? Choices: laptop, smoke.",
        ),
        (
            "engine=steem",
            "engine=steem: no such engine. Did you mean 'steam'? Choices: big_steam, diesel, "
            "loaded, steam.",
        ),
        (
            "more.rival=coal",
            "more.rival=coal: no such engine for more.rival. Choices: big_steam, diesel, loaded, "
            "steam.",
        ),
        ("data=dats", "data=dats: no such dataset. Did you mean 'dots'? Choices: dots, folder."),
        ("engine.kind=diesel", "engine.kind: choose with engine=diesel"),
        (
            "engine={kind: diesel}",
            "engine: choose by name, engine=NAME, one of: diesel, loaded, steam; then "
            "engine.SETTING=VALUE",
        ),
        ("engine=null", "engine: choose one with engine=NAME, one of: diesel, loaded, steam"),
        # A value that does not fit.
        ("pretrain.lr=-1", "pretrain.lr: should be greater than 0 (got -1)"),
        ("pretrain.lr=fast", "pretrain.lr: should be a number (got 'fast')"),
        ("pretrain.samples=1.5", "pretrain.samples: should be a whole number (got 1.5)"),
        ("engine.tubes=3", "engine.tubes: should be a multiple of 2 (got 3)"),
        (
            "pretrain.schedule=cos",
            "pretrain.schedule: should be one of: constant, cosine (got 'cos')",
        ),
        (
            "pretrain.micro_batch=x",
            "pretrain.micro_batch: should be a whole number or null (got 'x')",
        ),
        ("pretrain.betas=3", "pretrain.betas: should be a list in brackets, [A,B] (got 3)"),
        (
            "more.rival.injection=x",
            "more.rival.injection: should be one of: direct, chamber (got 'x')",
        ),
        ("pretrain=3", "pretrain: is a section: give its settings, not a value (got 3)"),
        # Settings that do not go together.
        (
            "pretrain.schedule=cosine",
            "pretrain.schedule=cosine is not defined for engine=steam; use "
            "pretrain.schedule=constant",
        ),
        # Required and missing.
        (
            "data=folder",
            "data.path: required and not given; add data.path=VALUE: Folder with images.",
        ),
        # Words that are no overrides.
        ("pretrain.lr", "pretrain.lr: settings are written key=value: pretrain.lr=VALUE"),
        ("--lr", "--lr: settings are written key=value: lr=VALUE"),
        ("=3", "=3: settings are written key=value; the key is missing"),
        (
            "pretrain.lr=1,2",
            "pretrain.lr=1,2: several values. Use 'latentsmith sweep' to run each; if it is one "
            "list, write pretrain.lr=[1,2]",
        ),
        (
            "~pretrain.lr",
            "~pretrain.lr: only entries of a mapping can be taken away; set it instead: "
            "pretrain.lr=VALUE",
        ),
        ("~more.rivals", "~more.rivals: nothing to take away. Did you mean 'rival'?"),
    ],
)
def test_one_mistake(word, answer):
    assert problems(word) == [answer]


def test_all_mistakes_at_once_each_named_once():
    found = problems(
        "engine=steem", "engine.pressure=0", "pretrain.lr=-1", "pretrain.lrr=1", "data=folder",
        "finetune.samples=abc", "more.rival.injection=x",
    )  # fmt: skip
    assert [line.split(":")[0] for line in found] == [
        "engine=steem",
        "pretrain.lrr",
        "data.path",
        "more.rival.injection",
        "pretrain.lr",
        "finetune.samples",
    ]


def test_a_word_and_its_value_apart_are_one_mistake():
    assert problems("pretrain.lr", "3", "--seed", "4") == [
        "pretrain.lr 3: settings are written key=value: pretrain.lr=3",
        "--seed 4: settings are written key=value: seed=4",
    ]


def test_values_the_parser_cannot_read_say_how_to_quote():
    (line,) = problems("data.path=a b(c")
    assert line.startswith("data.path=a b(c: cannot read this value (")
    assert line.endswith("""quote it twice: 'data.path="a b(c"'""")


def test_kind_names_are_not_part_of_any_path():
    """Pydantic puts the discriminator's value into its locations; no user ever typed it."""
    words = ["law=sum", "law.terms.a=teacher", "law.terms.a.engine=steam"]
    assert problems(*words, "law.terms.a.engine.tubes=1") == [
        "law.terms.a.engine.tubes: should be a multiple of 2 (got 1)"
    ]


def test_a_missing_interpolation_names_the_setting():
    with pytest.raises(UserError, match="seed: Interpolation key 'nowhere' not found"):
        compose("toy", ["seed=${nowhere}"])


def test_presets_that_do_not_fit_each_other_say_so():
    """The scale sets engine.pressure, the experiment chooses an engine without it."""
    assert problems("scale=smoke", "experiment=rivalry") == [
        "engine.pressure: pressure is a setting of engine=steam, not of engine=diesel"
    ]


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match=r"^no recipe 'tey'\. Did you mean 'toy'\?$"):
        compose("tey")
