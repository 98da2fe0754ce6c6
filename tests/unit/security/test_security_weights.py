"""Files of weights and numbers from anyone: whatever is in them, nothing of it runs."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.tiny_models import tiny_autoencoder, tiny_clip_text, tiny_dinov2
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.backbones.published import read_state
from latentsmith.cli import main
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.errors import UserError
from latentsmith.losses.perceptual import load_lpips
from latentsmith.utils import arrays
from latentsmith.utils.arrays import read_array, read_arrays
from latentsmith.utils.weights import read_tensors


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """A path that exists as soon as something evil ran."""
    return tmp_path / "it-ran"


def write_saved(file: Path, evil: Evil) -> None:
    torch.save({"weight": torch.zeros(2), "evil": evil}, file)


def write_pickled(file: Path, evil: Evil) -> None:
    file.write_bytes(pickle.dumps({"weight": evil}))


WRITERS = pytest.mark.parametrize("write", [write_saved, write_pickled])


def test_it_would_run(mark, tmp_path):
    """The trap works: whoever trusts the file runs what is in it."""
    write_saved(tmp_path / "x.pt", Evil(mark))
    torch.load(tmp_path / "x.pt", weights_only=False)
    mark.rmdir()
    write_pickled(tmp_path / "x.pt", Evil(mark))
    pickle.loads((tmp_path / "x.pt").read_bytes())
    assert mark.exists()


@WRITERS
@pytest.mark.parametrize(
    "read", [read_tensors, read_state, lambda file: load_lpips(trunk=str(file))]
)
def test_single_files(mark, tmp_path, write, read):
    write(tmp_path / "x.pt", Evil(mark))
    with pytest.raises(UserError, match=r"x\.pt: .*which would run code \(give \.safetensors\)"):
        read(tmp_path / "x.pt")
    assert not mark.exists()


def without_safetensors(folder: str) -> Path:
    for file in Path(folder).rglob("*.safetensors"):
        file.unlink()
    return Path(folder)


@WRITERS
def test_an_autoencoder_whose_weights_are_a_pickle(mark, tmp_path, write, capsys):
    folder = without_safetensors(tiny_autoencoder(tmp_path / "vae"))
    write(folder / "diffusion_pytorch_model.bin", Evil(mark))
    with pytest.raises(UserError, match="cannot load the autoencoder"):
        KLAutoencoderConfig(source=str(folder)).build()
    assert main(["cache", "latents", str(folder), "data=digits"]) == 2
    assert "latentsmith: cannot load the autoencoder" in capsys.readouterr().err
    assert not mark.exists()


@WRITERS
def test_an_encoder_whose_weights_are_a_pickle(mark, tmp_path, write):
    folder = without_safetensors(tiny_dinov2(tmp_path / "dino"))
    write(folder / "pytorch_model.bin", Evil(mark))
    with pytest.raises(UserError, match=r"which would run code \(give \.safetensors\)"):
        DinoV2Config(source=str(folder)).build()
    assert not mark.exists()


def test_an_encoder_that_brings_its_own_code(mark, tmp_path):
    """Neither run nor asked about: nobody sits before a cluster's terminal."""
    folder = Path(tiny_dinov2(tmp_path / "dino"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.E", "AutoModel": "evil.E"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    with pytest.raises(UserError, match="custom code"):
        DinoV2Config(source=str(folder)).build()
    assert not mark.exists()


def test_a_tokenizer_that_brings_its_own_code(mark, tmp_path):
    folder = Path(tiny_clip_text(tmp_path / "clip"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.E", "evil.E"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    with pytest.raises(UserError, match="custom code"):
        ClipTextConfig(source=str(folder)).build()
    assert not mark.exists()


def test_damaged_safetensors(tmp_path):
    folder = Path(tiny_dinov2(tmp_path / "dino"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="cannot load the encoder"):
        DinoV2Config(source=str(folder)).build()
    with pytest.raises(UserError, match=r"cannot read weights from .*model\.safetensors"):
        read_tensors(file)


def test_honest_files_are_read(tmp_path):
    state = nn.Linear(2, 2).state_dict()
    torch.save(state, tmp_path / "x.pt")
    assert all(torch.equal(read_tensors(tmp_path / "x.pt")[name], state[name]) for name in state)


# Files of numbers --------------------------------------------------------------------------------


def test_arrays_of_objects(mark, tmp_path):
    objects = np.array([Evil(mark)], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects)
    write_pickled(tmp_path / "pickled.npy", Evil(mark))
    with pytest.raises(UserError, match=r"x\.npy is not .*it holds Python objects"):
        read_array(tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"x\.npz is not .*it holds Python objects"):
        read_arrays(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"pickled\.npy is not a readable \.npy file of numbers"):
        read_array(tmp_path / "pickled.npy")
    assert not mark.exists()


def test_numbers_that_unpack_to_more_than_they_can_be(tmp_path, monkeypatch):
    file = tmp_path / "bomb.npz"
    np.savez_compressed(file, x=np.zeros(1_000_000))
    assert len(read_arrays(file)["x"]) == 1_000_000, "below a gigabyte everything is fine"
    monkeypatch.setattr(arrays, "BOMB", 1_000)
    with pytest.raises(UserError, match=r"would unpack from 0\.0 MB to 0\.0 GB"):
        read_arrays(file)
    np.savez(file, x=np.zeros(1_000_000))
    assert len(read_arrays(file)["x"]) == 1_000_000, "nor is it a bomb when it is not packed"


# A run from elsewhere ----------------------------------------------------------------------------


def test_settings_that_name_code(mark, tmp_path, capsys):
    """Of a run folder that came from elsewhere: read as data, compared, measured."""
    run = tmp_path / "run"
    run.mkdir()
    evil = f"kind: mmreg\ndata:\n  _target_: os.mkdir\n  path: {mark}\n  kind: digits\n"
    for text in (evil, f"!!python/object/apply:os.mkdir ['{mark}']\n"):
        (run / "config.yaml").write_text(text)
        assert main(["measure", str(run)]) == 2
        assert main(["run", "mmreg", "scale=smoke", "--out", str(run)]) == 2
        assert main(["report", str(run), str(run)]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    shutil.rmtree(run)
    assert not mark.exists()
