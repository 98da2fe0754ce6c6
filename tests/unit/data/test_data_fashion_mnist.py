"""Fashion-MNIST's sources, on a small stand-in; the real data where it can be had."""

import gzip
import io
import subprocess
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from latentsmith.data import debian as apt
from latentsmith.data.fashion_mnist import FashionMNISTConfig, sources, verify
from latentsmith.data.fashion_mnist.idx import BadFile, read_idx, sha256, write_idx
from latentsmith.errors import UserError

SIZES = {"train": 6, "t10k": 4}


@pytest.fixture
def small():
    """part → values of a data set of the right form."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for part, n in SIZES.items():
        values[f"{part}-images"] = torch.randint(
            0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator
        )
        values[f"{part}-labels"] = torch.arange(n).to(torch.uint8)
    return values


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path, small, request):
    """The small data are the right ones, and no source reaches out of the test."""
    if "real" in request.node.name:
        return
    monkeypatch.setattr(verify, "SHA256", {part: sha256(v) for part, v in small.items()})
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", tmp_path / "usr" / "share" / "fm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(apt.shutil, "which", lambda tool: None)


def write_all(folder, small, suffix=".gz"):
    folder.mkdir(parents=True)
    for part, values in small.items():
        write_idx(folder / f"{verify.FILES[part]}.gz", values)
        if not suffix:
            packed = folder / f"{verify.FILES[part]}.gz"
            (folder / verify.FILES[part]).write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
    return folder


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_given_folder(tmp_path, small, suffix):
    folder = write_all(tmp_path / "mine", small, suffix)
    val = FashionMNISTConfig(folder=folder).build("val", tmp_path / "cache")
    assert val.images.shape == (4, 1, 28, 28) and val.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(val.images[:, 0], small["t10k-images"])
    assert val.origin == f"folder {folder}" and val.name == "fashion_mnist/val"
    assert not (tmp_path / "cache").exists()


def test_pad_and_counts(tmp_path, small):
    folder = write_all(tmp_path / "mine", small)
    train = FashionMNISTConfig(folder=folder, pad=2, train_count=3).build("train", tmp_path)
    assert train.images.shape == (3, 1, 32, 32)
    assert torch.equal(train.images[:, 0, 2:-2, 2:-2], small["train-images"][:3])
    assert train.images[:, :, :2].max() == 0 and train.labels.tolist() == [0, 1, 2]


def test_scattered_images_are_another_dataset(tmp_path, small):
    folder = write_all(tmp_path / "mine", small)
    plain = FashionMNISTConfig(folder=folder).build("train", tmp_path)
    few = FashionMNISTConfig(folder=folder, scatter=32, train_count=3).build("train", tmp_path)
    every = FashionMNISTConfig(folder=folder, scatter=32).build("train", tmp_path)
    assert few.images.shape == (3, 1, 32, 32)
    assert few.name == "fashion_mnist_scattered/train" != plain.name
    assert torch.equal(few.images, every.images[:3])
    assert torch.equal(every.labels, plain.labels)
    with pytest.raises(ValueError, match="set one of them"):
        FashionMNISTConfig(folder=folder, scatter=32, pad=2)


def test_debians_installed_package_comes_before_the_rest(tmp_path, small):
    write_all(sources.DEBIAN_FOLDER, small)
    train = FashionMNISTConfig().build("train", tmp_path / "cache")
    assert "Debian package dataset-fashion-mnist" in train.origin


def test_no_source_names_all_four_and_why(tmp_path):
    with pytest.raises(UserError) as caught:
        FashionMNISTConfig().build("train", tmp_path / "cache")
    text = str(caught.value)
    for piece in (
        "a given folder: none was given",
        f"there is no folder {sources.DEBIAN_FOLDER}",
        "HF_HUB_OFFLINE is set",
        "no apt-get",
        "apt-get install dataset-fashion-mnist",
    ):
        assert piece in text


def test_a_given_folder_is_never_replaced_by_another_source(tmp_path, small):
    write_all(sources.DEBIAN_FOLDER, small)
    folder = write_all(tmp_path / "mine", small)
    wrong = small["train-images"].clone()
    wrong[0, 0, 0] ^= 1
    write_idx(folder / "train-images-idx3-ubyte.gz", wrong)
    with pytest.raises(UserError, match=r"not Fashion-MNIST's: SHA-256.*expected"):
        FashionMNISTConfig(folder=folder).build("train", tmp_path)
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"has no train-images-idx3-ubyte\.gz"):
        FashionMNISTConfig(folder=folder).build("train", tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        FashionMNISTConfig(folder=tmp_path / "typo").build("train", tmp_path)


def parquet(path, images, labels):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def png(image):
        buffer = io.BytesIO()
        Image.fromarray(image.numpy()).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = {"image": [png(image) for image in images], "label": labels.tolist()}
    pq.write_table(pa.table(rows), path)
    return str(path)


@pytest.fixture
def hub(monkeypatch, tmp_path, small):
    """A hub with the data in its own format."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    files = {
        f"fashion_mnist/{word}-00000-of-00001.parquet": parquet(
            tmp_path / f"{word}.parquet", small[f"{part}-images"], small[f"{part}-labels"]
        )
        for part, word in (("train", "train"), ("t10k", "test"))
    }
    import huggingface_hub

    siblings = [SimpleNamespace(rfilename=name) for name in ("README.md", *files)]
    asked = []

    class Api:
        def dataset_info(self, name, timeout):
            asked.append(timeout)
            return SimpleNamespace(siblings=siblings)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file, **kw: files[file])
    return asked


def test_hub_parquet_is_checked_decoded_and_kept(tmp_path, small, hub, monkeypatch):
    cache = tmp_path / "cache"
    train = FashionMNISTConfig().build("train", cache)
    assert torch.equal(train.images[:, 0], small["train-images"])
    assert train.origin.startswith("Hugging Face hub") and hub == [sources.HUB_PATIENCE]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    val = FashionMNISTConfig().build("val", cache)  # from what was kept
    assert torch.equal(val.images[:, 0], small["t10k-images"])
    assert val.origin.startswith("Hugging Face hub") and "kept in" in val.origin
    same = FashionMNISTConfig(folder=write_all(tmp_path / "mine", small)).build("val", cache)
    assert same.digest == val.digest


def test_wrong_hub_data_are_refused_and_not_kept(tmp_path, hub, monkeypatch):
    monkeypatch.setitem(verify.SHA256, "t10k-labels", "0" * 64)
    with pytest.raises(UserError, match="t10k-labels from hub dataset"):
        FashionMNISTConfig().build("train", tmp_path / "cache")
    assert not (tmp_path / "cache" / "fashion_mnist").exists()


def test_a_damaged_cache_is_fetched_again(tmp_path, small, hub):
    kept = write_all(tmp_path / "cache" / "fashion_mnist", small)
    (kept / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bhalf")
    train = FashionMNISTConfig().build("train", tmp_path / "cache")
    assert "kept in" not in train.origin
    again = FashionMNISTConfig().build("train", tmp_path / "cache")
    assert "kept in" in again.origin and again.digest == train.digest


@pytest.fixture
def debian(monkeypatch, tmp_path, small):
    """apt-get and dpkg-deb that know the package only after an update of private lists."""
    monkeypatch.setattr(apt.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    calls = []

    def run(command, cwd, **kwargs):
        calls.append(command)
        if command[0] == "dpkg-deb":
            write_all(cwd / "x" / sources.DEBIAN_FOLDER.relative_to("/"), small)
        elif "download" in command:
            if not any("Dir::State::lists" in word for word in command):
                error = "W: noise\nE: Unable to locate package dataset-fashion-mnist\n"
                return SimpleNamespace(returncode=100, stderr=error)
            (cwd / "dataset-fashion-mnist_0.0_all.deb").write_bytes(b"deb")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(apt.subprocess, "run", run)
    return calls


def test_package_is_downloaded_with_private_lists_when_the_system_has_none(tmp_path, small, debian):
    train = FashionMNISTConfig().build("train", tmp_path / "cache")
    assert torch.equal(train.images[:, 0], small["train-images"])
    assert "dataset-fashion-mnist_0.0_all.deb, downloaded" in train.origin
    assert [c[0] for c in debian] == ["apt-get", "apt-get", "apt-get", "dpkg-deb"]
    FashionMNISTConfig().build("val", tmp_path / "cache")
    assert len(debian) == 4  # kept: not downloaded twice


def test_a_failing_command_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setattr(apt.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(
        apt.subprocess,
        "run",
        lambda *a, **k: SimpleNamespace(returncode=100, stderr="E: no space left\n"),
    )
    with pytest.raises(UserError, match="E: no space left"):
        FashionMNISTConfig().build("train", tmp_path / "cache")

    def hang(command, **kwargs):
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(apt.subprocess, "run", hang)
    with pytest.raises(UserError, match="timed out"):
        FashionMNISTConfig().build("train", tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file"),
        (b"\0\0\x08\x01\0\0\0\x05abc", r"says shape \[5\] but holds 11 bytes"),
        (b"", "not an IDX file"),
    ],
)
def test_bad_idx_files(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=message):
        read_idx(path)


def test_idx_round_trip_is_reproducible(tmp_path, small):
    for name in ("a", "b"):
        write_idx(tmp_path / name, small["train-images"])
    assert torch.equal(read_idx(tmp_path / "a"), small["train-images"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_real_data(tmp_path, monkeypatch):
    """The real thing, from whichever source this machine has."""
    from latentsmith.utils.cache import cache_root

    try:
        train = FashionMNISTConfig(pad=2).build("train", cache_root() / "data")
        val = FashionMNISTConfig().build("val", cache_root() / "data")
    except UserError as error:
        pytest.skip(f"Fashion-MNIST is not to be had here: {error}")
    assert train.images.shape == (60_000, 1, 32, 32) and val.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6000] * 10
    assert val.labels.bincount().tolist() == [1000] * 10
    assert train.labels[:4].tolist() == [9, 0, 0, 3]
