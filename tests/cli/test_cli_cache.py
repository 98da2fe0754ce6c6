"""The verb ``cache``: stores made, gone on with, looked at, checked."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.fresh import Started
from helpers.stores import table, write
from helpers.tiny_models import tiny_autoencoder, tiny_dinov2
from latentsmith.cli import main
from latentsmith.stores.base import open_store
from latentsmith.stores.texts import text_rows

SHAPES = [
    "data=shapes",
    "data.resolution=16",
    "data.train_count=600",
    "data.val_count=10",
    "transform.resolution=16",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_autoencoder(folder / "one")
    tiny_autoencoder(folder / "two", seed=1)
    tiny_dinov2(folder / "dino")
    return folder


def ask(capsys, *words: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command."""
    capsys.readouterr()
    code = main(["cache", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_latents_go_to_the_cache_by_their_digest_and_are_made_once(capsys, models, tmp_path):
    code, out, _ = ask(capsys, "latents", models / "one", *SHAPES, "split=val")
    assert code == 0
    path = Path(out.splitlines()[-1])
    assert path.parent == tmp_path / "cache" / "stores"
    store = open_store(path)
    assert len(store) == 10
    assert store.manifest.source["name"] == "shapes16/val"
    before = (path / "shard-00000.safetensors").stat().st_mtime_ns
    again = ask(capsys, "latents", models / "one", *SHAPES, "split=val")
    assert again[:2] == (code, out)
    assert (path / "shard-00000.safetensors").stat().st_mtime_ns == before
    other = ask(capsys, "latents", models / "two", *SHAPES, "split=val")[1]
    assert other.splitlines()[-1] != str(path)


def test_another_autoencoder_is_refused_naming_both(capsys, models):
    words = [*SHAPES, "split=val", "--out", "store"]
    assert ask(capsys, "latents", models / "one", *words)[0] == 0
    code, _, err = ask(capsys, "latents", models / "two", *words)
    assert code == 2
    assert "store holds another store" in err
    assert "encoder.weights" in err
    assert "there" in err and "wanted" in err


def test_tokens_vectors_and_texts(capsys, models):
    dino = ["encoder=dinov2", f"encoder.source={models / 'dino'}", "encoder.resolution=28"]
    words = [*SHAPES, "split=val", "--out"]
    assert ask(capsys, "tokens", *dino, "tokens.grid=[1,2]", "dtype=int8", *words, "a")[0] == 0
    tokens = open_store("a").gather(torch.arange(10))["tokens"]
    assert tokens.shape == (10, 2, 16)
    pca = ["encoder=pixel_pca", "encoder.components=4"]  # fitted on the training images
    assert ask(capsys, "vectors", *pca, *words, "b")[0] == 0
    assert open_store("b").gather(torch.arange(10))["vector"].shape == (10, 4)
    Path("prompts.txt").write_text("a cat\n\na dog\na cat\n")
    assert ask(capsys, "text", "--texts", "prompts.txt", "--out", "c")[0] == 0
    assert text_rows(open_store("c")).tolist() == [0, 2, 1, 0]
    assert ask(capsys, "text", "--template", "a {} shape", *words, "d")[0] == 0
    code, out, _ = ask(capsys, "inspect", "d")
    assert code == 0
    assert "first texts  'a circle shape'" in out
    assert "kind minilm" in out


MISTAKES = [
    (["tokens", *SHAPES], "no encoder to take tokens of: choose one, encoder=dinov2"),
    (["latents", "model"], "no data: choose a dataset"),
    (["latents", "model", *SHAPES], "cannot load the autoencoder 'model'"),
    (["latents", "model", *SHAPES, "transform.flip=true"], "transform.flip=false"),
    (["latents", "model", *SHAPES, "dtype=int8"], "latents cannot be stored as int8"),
    (["latents", "scratch", *SHAPES], "no autoencoder: give autoencoder.source"),
    (["text", "data=digits", "text_encoder=nimilm"], "Did you mean 'minilm'?"),
    (["text", "data=digits"], "gives no captions"),
    (["text", "--texts", "none.txt"], "cannot read texts from none.txt"),
    (["inspect", "nothing"], "no store at nothing"),
    (["verify", "nothing"], "no store at nothing"),
    (["latentz", "x"], "invalid choice: 'latentz'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(m[0][:2]) for m in MISTAKES])
def test_mistakes_are_told_in_a_sentence(capsys, words, message):
    code, _, err = ask(capsys, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_resolution_that_does_not_fit_is_told_before_data_are_fetched(capsys, models):
    words = ["data=image_folder", "data.folder=nowhere", "transform.resolution=18"]
    code, _, err = ask(capsys, "latents", models / "one", *words)
    assert code == 2
    assert "use 16 or 20" in err


def test_killed_at_any_instant_it_goes_on_without_computing_twice(capsys, models, tmp_path):
    words = ["latents", models / "one", *SHAPES, "batch_size=8", "--out"]
    command = ["-m", "latentsmith", "cache", *map(str, words), "killed"]
    process = Started(command, tmp_path)
    first, deadline = Path("killed/shard-00000.json"), time.monotonic() + 100
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.child.kill()
    done = process.wait()
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("killed/manifest.json").exists()
    code, _, said = ask(capsys, "inspect", "killed")
    assert code == 2
    assert "not finished, 2 of 3 shards are missing" in said
    shard = Path("killed/shard-00000.safetensors")
    before = shard.stat().st_mtime_ns
    assert ask(capsys, *words, "killed")[0] == 0
    assert shard.stat().st_mtime_ns == before, "what was committed was computed again"
    assert ask(capsys, *words, "whole")[0] == 0
    one, two = (open_store(name) for name in ("killed", "whole"))
    assert one.manifest == two.manifest
    for file in sorted(Path("whole").glob("shard-*.safetensors")):
        a, b = load_file(file), load_file(Path("killed") / file.name)
        assert all(torch.equal(a[name], b[name]) for name in a), file.name
    assert ask(capsys, "verify", "killed", "whole")[0] == 0


def test_verify_finds_a_flipped_byte_and_names_the_shard(capsys, models):
    assert ask(capsys, "latents", models / "one", *SHAPES, "--out", "s", "batch_size=64")[0] == 0
    file = Path("s/shard-00001.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    code, out, _ = ask(capsys, "verify", "s")
    assert code == 1
    assert "shard 1 (rows 256 to 511) does not match its checksum" in out
    assert "shard 0" not in out


def test_verify_finds_a_zeroed_token_and_names_the_sample(capsys, models):
    """Even when whoever zeroed it wrote a matching checksum: no teacher token is zero."""
    import json

    from latentsmith.utils.digest import state_digest

    dino = ["encoder=dinov2", f"encoder.source={models / 'dino'}", "encoder.resolution=28"]
    assert ask(capsys, "tokens", *dino, *SHAPES, "split=val", "--out", "s")[0] == 0
    file = Path("s/shard-00000.safetensors")
    tensors = load_file(file)
    tensors["tokens"][7, 2] = 0
    save_file(tensors, file)
    for note in (Path("s/shard-00000.json"), Path("s/manifest.json")):
        value = json.loads(note.read_text())
        part = value["shards"][0] if "shards" in value else value
        part["checksum"] = state_digest(tensors)
        value.pop("seal", None)  # as older manifests have none
        note.write_text(json.dumps(value))
    code, out, _ = ask(capsys, "verify", "s")
    assert code == 1
    assert "'7'" in out
    assert "zero" in out


def test_verify_looks_at_the_index_of_texts_too(capsys):
    Path("prompts.txt").write_text("a cat\na dog\n")
    assert ask(capsys, "text", "--texts", "prompts.txt", "--out", "s")[0] == 0
    assert ask(capsys, "verify", "s")[0] == 0
    Path("s/texts.txt").write_text("a cat\na bird\n\n")
    code, out, _ = ask(capsys, "verify", "s")
    assert code == 1
    assert "texts.txt" in out


def test_converted_there_and_back_it_is_the_same(capsys, models):
    assert ask(capsys, "latents", models / "one", *SHAPES, "split=val", "--out", "s")[0] == 0
    assert ask(capsys, "convert", "s", "l", "--to", "lmdb")[0] == 0
    assert ask(capsys, "convert", "l", "t", "--to", "shards")[0] == 0
    rows = torch.arange(10)
    a, b, c = (open_store(name).gather(rows) for name in ("s", "l", "t"))
    assert all(torch.equal(a[name], b[name]) and torch.equal(a[name], c[name]) for name in a)


def test_stores_are_copied_to_urls_looked_at_there_and_checked(tmp_path, capsys):
    store = write(tmp_path / "store", table(20))
    url = (tmp_path / "bucket" / "store").as_uri()
    assert main(["cache", "copy", str(store.path), url]) == 0
    assert "files copied" in capsys.readouterr().out
    assert main(["cache", "inspect", url]) == 0
    assert "20" in capsys.readouterr().out
    assert main(["cache", "verify", url]) == 0
    assert f"{url}: good, 20 rows" in capsys.readouterr().out
    assert main(["cache", "verify", f"{url}-no"]) == 2
    assert "holds no store" in capsys.readouterr().err


def test_reconstructions_of_all_images_stand_in_the_card_of_a_sample(capsys, models):
    dino = ["encoder=dinov2", f"encoder.source={models / 'dino'}", "encoder.resolution=28"]
    images = [*SHAPES, "data.val_count=120", "encoder.output=pooled"]
    made = ask(capsys, "reconstructions", models / "one", *dino, *images, "split=val", "--out", "r")
    assert made[0] == 0, made[2]
    few = ["count=64", "probe_count=64", "card.paths=2", "card.resamples=4"]
    words = ["measure", str(models / "one"), *dino, *images, *few, "--out", "card"]
    assert main([*words, "reconstructions=r"]) == 0
    found = {
        m["name"]: m for m in json.loads(Path("card/measurements.json").read_text())["measurements"]
    }
    whole = ("psnr", "ssim", "fd_dinov2", "kid_dinov2")
    assert {found[name]["stamp"]["count"] for name in whole} == {120}
    assert found["latent_std"]["stamp"]["count"] == 64
    assert main(["measure", str(models / "two"), *words[2:-1], "other", "reconstructions=r"]) == 2
    assert "by another autoencoder" in capsys.readouterr().err
