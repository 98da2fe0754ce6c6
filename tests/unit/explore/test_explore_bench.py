"""What a run holds to look at, and what its tabs show for it."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.explored import image_run, tabs_by_arm, usual
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.errors import UserError
from latentsmith.explore.arms import find_arms
from latentsmith.explore.bench import Bench, encoders_of
from latentsmith.explore.form import checked
from latentsmith.explore.server import Explorer
from latentsmith.explore.tab import Tab, tabs
from latentsmith.sampling.generator import LatentGenerator

EVERY = ["map", "neighbours", "interpolate", "reconstruct"]
MADE = ["generate", "variation", "inpaint"]


@pytest.fixture
def images(explored):
    return Explorer(Bench([explored["images"]], count=12))


@pytest.fixture
def texts(explored):
    return Explorer(Bench([explored["texts"]], count=12))


def show(explorer, name, arm=0, **given):
    tab = next(tab for tab in explorer.page()["tabs"] if tab["name"] == name)
    return explorer.show(name, tab["arms"][arm], usual(tab, **given))


def of_kind(blocks, kind):
    return [block for block in blocks if block["kind"] == kind]


def test_only_tabs_that_make_sense(explored):
    found = tabs_by_arm(explored["images"])
    assert found["baseline"] == [*EVERY, *MADE]
    assert found["regularized"] == [*EVERY, "generate", "edit", "variation", "inpaint", "run"]
    assert tabs_by_arm(explored["fields"])["autoencoder"] == [*EVERY, "field", "run"]
    assert tabs_by_arm(explored["texts"])["base"] == [
        "map", "neighbours", "roundtrip", "between_texts", "run",
    ]  # fmt: skip


def test_every_tab_is_described_and_has_its_own_place():
    found = list(tabs().values())
    assert [tab.place for tab in found] == sorted(tab.place for tab in found)
    for tab in found:
        assert isinstance(tab, Tab) and tab.title and tab.help.endswith(".") and tab.__doc__


@pytest.mark.parametrize("which", ["images", "fields", "texts"])
def test_every_tab_answers_with_what_its_controls_begin_with(explored, which):
    explorer = Explorer(Bench([explored[which]], count=12))
    for tab in explorer.page()["tabs"]:
        for key in tab["arms"]:
            blocks = explorer.show(tab["name"], key, usual(tab))
            assert blocks and all("kind" in block for block in blocks), tab["name"]


def test_arms_pair_autoencoders_with_their_generators(explored):
    arms = find_arms([explored["images"]])
    assert [arm.stage for arm in arms] == ["baseline", "regularized"]
    for arm in arms:
        assert arm.generator and arm.stage in str(arm.generator) and arm.stage in str(arm.model)


def test_generators_of_one_autoencoder_are_arms_of_their_own(tmp_path):
    path = image_run(tmp_path)
    run = Run.load(path)
    run.writable = True
    place = path / "training/regularized"
    generator = LatentGenerator.load(place / "generator")
    generator.save(place / "second")
    run.mark_done("generator-baseline", {"generators": [{"generator": place / "second"}]})
    arms = find_arms([path])
    assert [arm.stage for arm in arms] == [
        "baseline",
        "generator-baseline",
        "generator-regularized",
    ]
    assert [arm.shown for arm in arms] == [False, True, True]


def test_a_run_that_uses_a_generator_shows_it(explored, tmp_path):
    generator = explored["images"] / "training/baseline/generator"
    words = [f"generator={generator}", "sampler.steps=3"]
    with Run.open(tmp_path / "sampled", compose("sample", words), words) as run:
        run.finish()
    assert tabs_by_arm(run.path)["generator"] == ["reconstruct", *MADE, "run"]


def test_runs_side_by_side_look_at_the_same_images(explored, tmp_path):
    shutil.copytree(explored["images"], tmp_path / "again")
    bench = Bench([explored["images"], tmp_path / "again"], count=5)
    assert len(bench.arms) == 4 and {arm.run_name for arm in bench.arms} == {"run", "again"}
    seen = [bench.seen(arm) for arm in bench.arms]
    assert all(torch.equal(seen[0], other) for other in seen[1:]) and len(seen[0]) == 5


def test_a_broken_model_leaves_the_others(explored, tmp_path, caplog):
    folder = tmp_path / "broken"
    shutil.copytree(explored["images"], folder)
    (folder / "training/baseline/autoencoder/config.json").write_text("{")
    assert list(tabs_by_arm(folder)) == ["regularized"]
    assert "baseline is left out" in caplog.text
    (folder / "training/regularized/generator/generator.json").write_text("{")
    with pytest.raises(UserError, match=r"generator\.json is damaged"):
        tabs_by_arm(folder)


def test_a_map_is_of_all_samples_and_says_the_error(images):
    blocks = show(images, "map", colour="distance error")
    (scatter,) = of_kind(blocks, "scatter")
    assert len(scatter["points"]) == len(scatter["values"]) == 12
    assert min(scatter["values"]) > 0
    same = show(images, "map", space="pixels", reference="pixels", colour="distance error")
    assert max(of_kind(same, "scatter")[0]["values"]) < 1e-6
    by_class = of_kind(show(images, "map"), "scatter")[0]
    assert by_class["values"] == images.bench.samples.labels
    assert len(by_class["names"]) == 8


def test_neighbours_of_a_sample_do_not_hold_it_and_are_marked_in_both_rows(images):
    latent, reference, facts = show(images, "neighbours", sample={"number": 3}, count=6)
    rows = [[item["number"] for item in block["items"]] for block in (latent, reference)]
    assert len(rows[0]) == 6 and 3 not in rows[0] + rows[1]
    marked = [{i["number"] for i in b["items"] if i["marked"]} for b in (latent, reference)]
    assert marked[0] == marked[1] == set(rows[0]) & set(rows[1])
    assert facts["items"] == [["in both", f"{len(marked[0])} of 6"]]


def test_an_uploaded_sample_is_its_own_neighbour(images):
    from latentsmith.explore.pictures import data_url

    upload = {"upload": data_url(images.bench.seen(images.bench.arms[0])[4])}
    latent, reference, _ = show(images, "neighbours", sample=upload, count=3, reference="pixels")
    assert latent["items"][0]["number"] == reference["items"][0]["number"] == 4


def test_a_path_ends_in_the_reconstructions_of_its_ends(images):
    strip = show(images, "interpolate", steps=5)[0]
    assert len(strip["images"]) == 5 and len(strip["speeds"]) == 4
    for number, place in ((0, 0), (1, -1)):
        back = show(images, "reconstruct", image={"number": number})[0]["items"][1]["src"]
        assert back == strip["images"][place]


def test_generated_images_follow_prompt_class_and_seed(images):
    def made(arm, **given):
        blocks = show(images, "generate", arm, count=2, steps=2, **given)
        return [[item["src"] for item in block["items"]] for block in blocks]

    (ring,), (star,) = made(0, label="ring"), made(0, label="star")
    assert len(ring) == 2 and ring != star and ring == made(0, label="ring")[0]
    assert made(0, label="ring", seed=1)[0] != ring
    rows = made(1, prompts="a red cat\n\na small dog")
    assert len(rows) == 2 and rows[0] != rows[1]
    assert made(1, prompts="a red cat", scale=4)[0] != rows[0]
    with pytest.raises(UserError, match="write a prompt"):
        show(images, "generate", 1, prompts=" ")


def test_what_is_not_painted_stays(images):
    given, made = show(images, "inpaint", count=2, steps=2)
    arm = images.bench.arms[0]
    from latentsmith.explore.pictures import uploaded

    back = uploaded(made["items"][0]["src"], images.bench.transform(arm))
    source = images.bench.seen(arm)[0]
    torch.testing.assert_close(back[:, 8:], (source[:, 8:] * 255).round() / 255)
    assert not torch.allclose(back[:, :8], source[:, :8], atol=0.02)
    assert len(given["items"]) == 1


def test_an_edit_needs_an_instruction(images):
    with pytest.raises(UserError, match="Instruction: write what"):
        show(images, "edit", instruction="")
    found = show(images, "edit", instruction="make it red", count=2, steps=2)
    assert [len(block["items"]) for block in found[:2]] == [1, 2]


def test_resolutions_are_numbers(explored):
    fields = Explorer(Bench([explored["fields"]], count=5))
    made = show(fields, "field", sides="8, 40")[1]
    assert [item["caption"] for item in made["items"]] == ["8 px", "40 px"]
    for sides in ("", "8, x", "0", "4096"):
        with pytest.raises(UserError, match="whole numbers from 1 to 512"):
            show(fields, "field", sides=sides)


def test_texts_go_there_and_back(texts):
    table = show(texts, "roundtrip", texts="a small red circle\na blue star")[0]
    assert [row[0] for row in table["rows"]] == ["a small red circle", "a blue star"]
    between = show(texts, "between_texts", count=5)[0]
    assert [row[0] for row in between["rows"]] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    with pytest.raises(UserError, match="2 texts of one line each"):
        show(texts, "between_texts", start="")
    with pytest.raises(UserError, match="0 texts"):
        show(texts, "roundtrip", texts="")


def test_references_are_called_by_their_kind():
    config = compose("mmreg", ["scale=smoke", "more_references.other=pixel_pca"])
    assert list(encoders_of(config)) == ["pixel_pca, encoder", "pixel_pca, other"]
    assert list(encoders_of(compose("field", ["scale=smoke"]))) == ["efficientnet_lite0"]


def test_an_arm_without_the_chosen_reference_says_what_it_has(images):
    with pytest.raises(UserError, match="Reference space: 'clip' is none of"):
        show(images, "map", reference="clip")
    from latentsmith.explore.tab import own_reference

    with pytest.raises(UserError, match="run has no reference space 'clip': pixel_pca, pixels"):
        own_reference(images.bench, images.bench.arms[0], "clip")


def test_the_how_to_adds_a_tab(images):
    page = (Path(__file__).parents[3] / "docs/howto/explore.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    scope: dict[str, Any] = {"__name__": "latentsmith.explore.tabs.channels"}
    exec(code, scope)
    tab, bench = scope["TAB"], images.bench
    arm = bench.arms[0]
    assert tab.fits(bench, arm) and tab.title == "Channels"
    given = checked(tab.controls(bench, [arm]), {"image": {"number": 2}})
    assert len(tab.blocks(bench, arm, given)[0]["items"]) == 2  # channels of the latent
