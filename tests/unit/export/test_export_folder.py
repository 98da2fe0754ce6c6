"""Exports of networks of our own, and the folder they go to: all or nothing, never over others."""

from pathlib import Path

import pytest
import torch

from helpers.exporting import blocks_of, run_card
from helpers.fresh import python
from helpers.tiny_models import tiny_generator
from latentsmith.diffusion.align import Aligner, AlignmentConfig
from latentsmith.errors import UserError
from latentsmith.export import folder as exporting
from latentsmith.export.class_pipeline import PARTS
from latentsmith.export.folder import check_free, export
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.samplers.euler import EulerConfig

HEADS = "alignment.safetensors, alignment.json"
HOW = {"sampler": EulerConfig(steps=2), "guidance": NoGuidanceConfig()}


@pytest.fixture
def generator(tmp_path):
    """A SiT with heads on two blocks."""
    g = LatentGenerator.load(tiny_generator(tmp_path / "source"))
    config = AlignmentConfig(blocks=[3, 1], hidden=6, layers=3)
    g.aligner = Aligner(config, g.backbone, teacher_dim=5)
    return g


def test_vae_and_heads_without_latentsmith_and_weights_by_name(generator, tmp_path):
    out = export(generator, tmp_path / "out", name="x")
    rng = torch.Generator().manual_seed(0)
    given = {
        "z": torch.randn(2, 2, 4, 4, generator=rng),
        "images": torch.rand(2, 3, 16, 16, generator=rng),
        "tokens": torch.randn(2, 16, 8, generator=rng),
    }
    code = (
        "out['decoded'] = decode(x['z'])\n"
        "out['raw'] = vae.encode(2 * x['images'] - 1).latent_dist.mode()\n"
        "out['1'], out['3'] = heads[1](x['tokens']), heads[3](x['tokens'])\n"
        "out |= load_file('backbone/diffusion_pytorch_model.safetensors')"
    )
    made = run_card(out, code, given, parts=["vae/", HEADS])
    near = {"rtol": 1e-5, "atol": 1e-5}
    want = generator.decode(generator.normalizer.denormalize(given["z"]))
    torch.testing.assert_close(made["decoded"].clamp(0, 1), want, **near)
    with torch.no_grad():
        torch.testing.assert_close(
            made["raw"], generator.autoencoder.encode(given["images"]).mode(), **near
        )
        for tap in (1, 3):
            want = generator.aligner.project(tap, given["tokens"], torch.zeros(2))
            torch.testing.assert_close(made[str(tap)], want, **near)
    for name, value in generator.backbone.state_dict().items():
        assert torch.equal(made[f"network.{name}"], value)


def test_the_whole_folder_is_a_generator_wherever_it_goes(generator, tmp_path):
    out = export(generator, tmp_path / "out", name="x")
    want = generator.sample(range(3), **HOW)
    (tmp_path / "source").rename(tmp_path / "gone")
    moved = out.rename(tmp_path / "moved")
    assert torch.equal(LatentGenerator.load(moved).sample(range(3), **HOW), want)
    given = {"z": torch.randn(2, 2, 4, 4)}
    code = "out['y'] = network(x['z'], torch.tensor([0.2, 0.7]), torch.tensor([0, 2]))"
    made = run_card(moved, code, given, parts=["backbone/"])
    with torch.no_grad():
        label = {"label": torch.tensor([0, 2])}
        want = generator.backbone(given["z"], torch.tensor([0.2, 0.7]), label).sample
    torch.testing.assert_close(made["y"], want, rtol=1e-5, atol=1e-5)


def test_without_heads_none_are_there(tmp_path):
    g = LatentGenerator.load(tiny_generator(tmp_path / "source"))
    out = export(g, tmp_path / "out", name="x")
    assert sorted(f.name for f in out.iterdir()) == [
        "README.md", "backbone", "class_pipeline.py", "generator.json", "latent_normalizer.json",
        "model_index.json", "scheduler", "vae",
    ]  # fmt: skip
    assert set(blocks_of(out / "README.md")) == {PARTS, "backbone/", "vae/"}
    text = (out / "README.md").read_text()
    assert "library_name: diffusers\n" in text and "- sit\n" in text
    assert "| classes | a, b, c |" in text


def test_a_generator_without_autoencoder_is_refused(generator, tmp_path):
    generator.autoencoder = None
    with pytest.raises(UserError, match="loaded without its autoencoder"):
        export(generator, tmp_path / "out", name="x")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_never_lost(generator, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(generator, out, name="empty folders are free")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out exists and is not empty: .*--out .*--fresh"):
        export(generator, out, name="x")
    assert (out / "mine.txt").is_file()
    export(generator, out, name="anew", fresh=True)
    assert "# anew" in (out / "README.md").read_text() and not (out / "mine.txt").exists()
    assert (tmp_path / "out.old-1" / "mine.txt").read_text() == "mine"
    export(generator, out, name="again", fresh=True)
    assert (tmp_path / "out.old-2").is_dir()


def test_files_and_the_source_s_own_folders_are_refused(tmp_path):
    source = Path(tiny_generator(tmp_path / "run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file: give a folder"):
        check_free(tmp_path / "file", fresh=True)
    for place in (source, source.parent, source / "..", tmp_path):
        with pytest.raises(UserError, match="holds what is exported: give another folder"):
            check_free(place, fresh=True, source=source)
    check_free(source / "below", fresh=False, source=source)
    with pytest.raises(UserError, match="holds what is exported"):
        export(LatentGenerator.load(source), tmp_path / "run" / "autoencoder", name="x", fresh=True)


def test_stopped_halfway_leaves_nothing_new(generator, tmp_path, monkeypatch):
    out = export(generator, tmp_path / "out", name="old")
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "model_card", stop)
    for place in (tmp_path / "new", out):
        with pytest.raises(KeyboardInterrupt):
            export(generator, place, name="x", fresh=True)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "source"]
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before


def test_killed_halfway_there_is_no_export(tmp_path):
    source = tiny_generator(tmp_path / "source")
    script = (
        "import os\nfrom latentsmith.export import folder\nfrom latentsmith.cli import main\n"
        "folder.describe_autoencoder = lambda *a: os._exit(9)\n"
        f"main(['export', {source!r}, '--out', 'out'])"
    )
    assert python("-c", script, cwd=tmp_path).returncode == 9
    assert not (tmp_path / "out").exists()
    generator = LatentGenerator.load(source)
    assert (export(generator, tmp_path / "out", name="x") / "README.md").is_file()
