"""Alignment heads on disk: what comes back, and what is refused."""

import json

import pytest
import torch
from toy_denoising import CLASSES, SHAPE, TEACHER, ToyBackboneConfig

from latentsmith.diffusion.align import SETTINGS, WEIGHTS, Aligner, AlignmentConfig
from latentsmith.errors import UserError
from latentsmith.losses.manifold import ManifoldConfig

EVERYTHING = {
    "blocks": [2, 1], "hidden": 6, "layers": 2, "activation": "gelu", "last_bias": False,
    "time_head": True, "ramp": 0.1, "manifold": ManifoldConfig(scope="both", cap=2.0),
}  # fmt: skip


def network():
    return ToyBackboneConfig().build(SHAPE, CLASSES)


def trained(**settings):
    """Heads that are not what they start as."""
    aligner = Aligner(AlignmentConfig(**(EVERYTHING | settings)), network(), TEACHER)
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in aligner.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.1)
    return aligner


def test_saved_heads_come_back_with_their_settings(tmp_path):
    aligner = trained()
    folder = aligner.save(tmp_path / "heads")
    assert sorted(f.name for f in folder.iterdir()) == ["alignment.json", "alignment.safetensors"]
    loaded = Aligner.load(folder, network())
    assert loaded.config == aligner.config and loaded.teacher_dim == TEACHER
    assert not loaded.training and loaded.taps == (2, 1)
    hidden = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9])
    for tap in (1, 2):
        assert torch.equal(loaded.project(tap, hidden, t), aligner.project(tap, hidden, t))
    first, second = (loaded.project(tap, hidden, t) for tap in (1, 2))
    assert not torch.allclose(first, second), "a head of its own for each block"
    later = loaded.project(1, hidden, t.flip(0))
    assert not torch.allclose(later, first), "the time matters"


def test_only_aligned_blocks_are_projected():
    with pytest.raises(UserError, match=r"block 1 has no alignment head: .* are on 2"):
        trained(blocks=[2]).project(1, torch.zeros(1, 16, 8), torch.zeros(1))


def test_heads_of_another_network_are_refused(tmp_path):
    folder = trained().save(tmp_path)
    narrow = network()
    narrow.width = 4
    with pytest.raises(UserError, match=r"heads in .* do not fit .*shape \[6, 8\] instead of"):
        Aligner.load(folder, narrow)
    shallow = network()
    shallow.depth = 1
    with pytest.raises(UserError, match=r"blocks has 2, and the network's blocks are 1 … 1"):
        Aligner.load(folder, shallow)


@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS])
def test_missing_and_damaged_files_are_sentences(tmp_path, name):
    folder = trained().save(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"alignment heads in .* are damaged .*save the gen"):
        Aligner.load(folder, network())
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"holds no alignment heads: it has no {name}"):
        Aligner.load(folder, network())


def test_settings_that_are_none_and_other_formats(tmp_path):
    folder = trained().save(tmp_path)
    about = json.loads((folder / SETTINGS).read_text())
    for wrong in ({"teacher_dim": None}, {"config": {"blocks": []}}, {"config": None}):
        (folder / SETTINGS).write_text(json.dumps(about | wrong))
        with pytest.raises(UserError, match="are damaged"):
            Aligner.load(folder, network())
    (folder / SETTINGS).write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(UserError, match="has format 2, and this version of latentsmith reads 1"):
        Aligner.load(folder, network())
