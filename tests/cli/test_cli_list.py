"""list and doctor: everything registered shows up; what is missing is said with its cure."""

import pytest

from latentsmith.cli import doctor, main
from latentsmith.cli.doctor import Finding
from latentsmith.data.base import DATASETS
from latentsmith.encoders.base import ENCODERS
from latentsmith.errors import UserError
from latentsmith.losses.base import LOSSES
from latentsmith.metrics.registry import METRICS
from latentsmith.recipes.base import RECIPES
from latentsmith.utils.needs import Need, hub_weights, needs_of, package


@pytest.mark.parametrize(
    ("what", "registry"),
    [
        ("recipes", RECIPES),
        ("encoders", ENCODERS),
        ("losses", LOSSES),
        ("datasets", DATASETS),
        ("metrics", METRICS),
    ],
)
def test_every_entry_is_listed_with_its_line(capsys, what, registry):
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in registry]
    assert all(entry.help in line for line, entry in zip(lines, registry, strict=True))


def test_presets_are_listed_with_their_first_comment(toy, capsys):
    assert main(["list", "presets", "toy"]) == 0
    out = capsys.readouterr().out
    assert "toy scale=smoke         Seconds, for tests.\n" in out
    assert "toy engine=big_steam\n" in out


def test_list_alone_shows_all_kinds(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for title in ("recipes:", "presets:", "encoders:", "losses:", "datasets:", "metrics:"):
        assert f"{title}\n" in out


def listed(capsys, *words: str) -> str:
    assert main(["list", *words]) == 0
    return capsys.readouterr().out


def test_wildcards_name_kinds_or_things(capsys):
    assert listed(capsys, "loss*") == listed(capsys, "losses")
    out = listed(capsys, "enc*")
    assert [line.split()[0] for line in out.splitlines()] == ENCODERS.names()
    assert listed(capsys, "*dino*").splitlines()[0] == "encoders:"
    names = [line.split()[0] for line in listed(capsys, "losses", "s*").splitlines()]
    assert names == ["si_huber", "spearman"]
    assert listed(capsys, "losses", "pearson").startswith("pearson ")


def test_search_looks_at_names_and_help(capsys):
    out = listed(capsys, "--search", "COSINE token")
    assert out.startswith("presets:\n") and "metrics:\n  token_cosine" in out
    assert "losses:" not in out
    out = listed(capsys, "settings", "measure", "--search", "square")
    assert "transform.resolution=" in out and "seed=" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--search", "no such thing"], "nothing fits 'no such thing'"),
        (["losses", "pearsn"], "nothing called 'pearsn' to list. Did you mean 'pearson'"),
        (["losses", "zz*"], "nothing fits 'losses' and 'zz*'"),
        (["lossez"], "nothing called 'lossez' to list. Did you mean 'losses'"),
        (["settings", "measure", "--search", "zz"], "no setting of measure fits 'zz'"),
    ],
)
def test_what_is_not_there_is_said(capsys, words, told):
    assert main(["list", *words]) == 2
    assert told in capsys.readouterr().err


def test_list_settings(toy, capsys):
    assert main(["list", "settings", "toy", "engine=diesel"]) == 0
    assert "engine.injection=direct  (direct or chamber)" in capsys.readouterr().out


def test_doctor_finds_this_machine_well(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch 2" in out and "core(s)" in out and "GiB free" in out
    assert "mmreg scale=smoke: nothing missing" in out
    assert "latentsmith plan RECIPE scale=paper" in out


def test_doctor_reports_what_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_dependencies", lambda: ["torch", "no-such-package"])
    monkeypatch.setattr(doctor, "recipes", lambda only: iter([]))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "bad   not installed: no-such-package: pip install no-such-package" in out
    assert "\n1 problem(s) to mend\n" in out


def test_doctor_knows_the_torchvision_trap(monkeypatch):
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda n: object() if n == "torchvision" else real(n)
    )
    monkeypatch.setattr(
        doctor, "_import_problem", lambda n: "operator missing" if n == "torchvision" else None
    )
    (finding,) = doctor.traps()
    assert finding.state == "bad"
    assert "torchvision does not fit this torch (operator missing)" in finding.text
    assert "pip uninstall torchvision" in finding.text


def test_doctor_lists_plugins_and_what_keeps_one_out(monkeypatch):
    from latentsmith import plugins

    problems = iter([UserError("the plug-in bad cannot be imported: mend it")])

    def load():
        for problem in problems:  # the first time only, as the real one
            raise problem
        return [plugins.Plugin("good", "good-losses 1.0", None)]

    monkeypatch.setattr(plugins, "load", load)
    assert list(doctor.plugins()) == [
        Finding("bad", "the plug-in bad cannot be imported: mend it"),
        Finding("ok", "good (good-losses 1.0)"),
    ]


def test_doctor_asks_every_recipe_and_choice(toy, monkeypatch):
    from toy.toy_recipe import Diesel, Steam

    oil, coal = Need("oil", False, "buy some"), Need("coal", True)
    monkeypatch.setattr(Diesel, "needs", lambda self: [oil], raising=False)
    monkeypatch.setattr(Steam, "needs", lambda self: [coal], raising=False)
    assert list(doctor.recipes("toy")) == [
        Finding("warn", "toy scale=laptop: no oil: buy some"),  # the rival engine's
        Finding("warn", "toy scale=smoke: no oil: buy some"),
        Finding("warn", "engine=diesel: no oil: buy some"),
        Finding("ok", "engine=steam: nothing missing"),
        Finding("warn", "law=teacher: no oil: buy some"),
    ]


def test_needs_are_gathered_from_everything_inside(toy, monkeypatch):
    from toy.toy_recipe import Diesel, Dots, Steam

    monkeypatch.setattr(Diesel, "needs", lambda self: [Need("oil", False)], raising=False)
    config = toy(data=Dots(), engine=Steam(), more={"a": Diesel(), "b": Diesel()})
    assert [need.what for need in needs_of(config)] == ["oil", "oil"]


def test_packages_and_weights_at_hand(tmp_path, monkeypatch):
    assert package("torch").ok
    missing = package("no_such_module", "no-such-module")
    assert not missing.ok and missing.how == "pip install no-such-module"
    assert not hub_weights(str(tmp_path)).ok
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text("{}")
    assert hub_weights(str(tmp_path), "vae").ok
    absent = hub_weights("nobody/no-such-model")
    assert not absent.ok and "hf download nobody/no-such-model" in absent.how
