"""What goes into stores, against the models called by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from helpers.tiny_models import tiny_autoencoder, tiny_clip_text, tiny_dinov2
from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.data.base import CorruptSample, keys_of
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.loader import Loader
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import Encoder, EncoderOutput
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.text.base import TextEncoder
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.encoders.text.minilm import MiniLMConfig
from latentsmith.errors import UserError
from latentsmith.stores.base import open_store
from latentsmith.stores.contents import fill
from latentsmith.stores.features import cache_tokens, pool_tokens, token_contents, vector_contents
from latentsmith.stores.images import ImageRows
from latentsmith.stores.latents import cache_latents, latent_contents
from latentsmith.stores.texts import (
    Texts,
    cache_texts,
    captions,
    class_texts,
    file_texts,
    stored_texts,
    text_contents,
    text_key,
    text_rows,
)

COUNT = 22
TRANSFORM = TransformConfig(resolution=16).build()


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> KLAutoencoder:
    return KLAutoencoderConfig(source=tiny_autoencoder(tmp_path_factory.mktemp("ae"))).build()


@pytest.fixture(scope="module")
def data() -> MemoryDataset:
    noise = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (COUNT, 3, 20, 24), dtype=torch.uint8, generator=noise)
    labels = torch.randint(3, (COUNT,), generator=noise)
    return MemoryDataset(images, labels, name="noise/train", classes=["cat", "dog", "house"])


class Files:
    """Samples one by one, some unreadable, as files are."""

    name, classes, origin, digest = "files/train", None, "here", "0"

    def __init__(self, bad: set[int], count: int = COUNT):
        self.bad, self.count = bad, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index in self.bad:
            raise CorruptSample(f"file {index} is broken")
        return {"image": torch.full((3, 16, 16), index, dtype=torch.uint8)}


def images_of(data: MemoryDataset) -> Tensor:
    loader = Loader(data, TRANSFORM, batch_size=COUNT, seed=0, shuffle=False)
    return next(iter(loader.epoch()))["image"]


@torch.no_grad()
def test_moments_with_their_mirror_and_labels(tmp_path, autoencoder, data):
    store = cache_latents(autoencoder, data, TRANSFORM, tmp_path, flip=True, batch_size=5)
    images = images_of(data)
    got = store.gather(torch.arange(COUNT))
    assert set(got) == {"mean", "logvar", "mean_flipped", "logvar_flipped", "label"}
    for suffix, seen in (("", images), ("_flipped", images.flip(-1))):
        posterior = autoencoder.encode(seen)
        for name in ("mean", "logvar"):
            want = getattr(posterior, name)
            assert got[name + suffix].dtype == torch.float16
            torch.testing.assert_close(got[name + suffix].float(), want, rtol=2e-3, atol=2e-3)
    assert (got["mean_flipped"] - got["mean"].flip(-1)).abs().max() > 0.01
    assert torch.equal(got["label"], data.labels)
    assert store.manifest.encoder["weights"] == autoencoder.encoder_digest()
    assert store.manifest.encoder["latent"] == "moments"
    assert list(store.keys) == [str(i) for i in range(COUNT)]


@torch.no_grad()
def test_mode_in_float32_is_the_mean(tmp_path, autoencoder, data):
    store = cache_latents(autoencoder, data, TRANSFORM, tmp_path, what="mode", dtype="float32")
    got = store.gather(torch.tensor([7, 2]), fields=["latent"])["latent"]
    want = autoencoder.encode(images_of(data)[[7, 2]]).mean
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_draws_belong_to_the_sample(tmp_path, autoencoder, data):
    settings = {"what": "sample", "dtype": "float32"}
    one = cache_latents(autoencoder, data, TRANSFORM, tmp_path / "1", batch_size=3, **settings)
    two = cache_latents(autoencoder, data, TRANSFORM, tmp_path / "2", batch_size=22, **settings)
    other = cache_latents(autoencoder, data, TRANSFORM, tmp_path / "3", seed=1, **settings)
    rows = torch.arange(COUNT)
    a, b, c = (s.gather(rows)["latent"] for s in (one, two, other))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert one.manifest == two.manifest
    assert one.manifest.fingerprint() != other.manifest.fingerprint()
    posterior = autoencoder.encode(images_of(data))
    for latents in (a, c):
        noise = (latents - posterior.mean) / (0.5 * posterior.logvar).exp()
        assert abs(float(noise.mean())) < 0.1
        assert abs(float(noise.std()) - 1) < 0.1
        assert len(noise[:, 0, 0, 0].unique()) == COUNT


def test_every_setting_that_changes_values_changes_the_fingerprint(autoencoder, data):
    settings = [
        {},
        {"what": "mode"},
        {"what": "sample"},
        {"what": "sample", "seed": 1},
        {"dtype": "bfloat16"},
        {"flip": True},
        {"precision": "bfloat16"},
    ]
    seen = {
        latent_contents(autoencoder, data, TRANSFORM, **s).manifest.fingerprint() for s in settings
    }
    squeezed = TransformConfig(resolution=16, crop="none").build()
    seen.add(latent_contents(autoencoder, data, squeezed).manifest.fingerprint())
    fewer = subset(data, torch.arange(5))
    seen.add(latent_contents(autoencoder, fewer, TRANSFORM).manifest.fingerprint())
    assert len(seen) == len(settings) + 2


def test_a_random_transform_is_refused(autoencoder, data):
    for random in (TransformConfig(resolution=16, flip=True), TransformConfig(
        resolution=16, crop="random"
    )):  # fmt: skip
        with pytest.raises(UserError, match=r"transform\.crop=center and transform\.flip=false"):
            latent_contents(autoencoder, data, random.build())


def test_a_done_store_is_not_computed_again(tmp_path, autoencoder, data, monkeypatch):
    cache_latents(autoencoder, data, TRANSFORM, tmp_path)
    monkeypatch.setattr(autoencoder, "encode", None)
    assert len(cache_latents(autoencoder, data, TRANSFORM, tmp_path)) == COUNT


def test_another_autoencoders_store_is_refused_naming_both(tmp_path, autoencoder, data):
    cache_latents(autoencoder, data, TRANSFORM, tmp_path / "store")
    other = KLAutoencoderConfig(source=tiny_autoencoder(tmp_path / "ae", seed=1)).build()
    with pytest.raises(UserError) as error:
        cache_latents(other, data, TRANSFORM, tmp_path / "store")
    assert "encoder.weights" in str(error.value)
    assert autoencoder.encoder_digest() in str(error.value)
    assert other.encoder_digest() in str(error.value)


def test_nan_and_too_large_values_name_the_sample(tmp_path, autoencoder, data):
    compute = latent_contents(autoencoder, data, TRANSFORM).compute
    encode = autoencoder.encode

    def broken(value: float):
        def call(images: Tensor):
            posterior = encode(images)
            posterior.mean[2, 0, 1, 1] = value
            return posterior

        return call

    for value, message in ((float("nan"), "NaN or infinity"), (1e6, "1e+06, beyond the range")):
        compute.autoencoder = type("Broken", (), {})()
        compute.autoencoder.encode = broken(value)
        compute.autoencoder.training = False
        compute.autoencoder.eval = compute.autoencoder.train = lambda *_: None
        with pytest.raises(UserError, match="latents of sample 6") as error:
            compute(torch.arange(4, 8))
        assert message in str(error.value)


def test_unreadable_samples_are_recorded_and_not_replaced(tmp_path, autoencoder):
    data = Files(bad={0, 3, 4, 5, COUNT - 1})  # a whole batch of three among them
    store = cache_latents(
        autoencoder, data, TRANSFORM, tmp_path, what="mode", dtype="float32", batch_size=3
    )
    assert store.unreadable == {i: f"file {i} is broken" for i in data.bad}
    good = [i for i in range(COUNT) if i not in data.bad]
    got = store.gather(torch.tensor(good))["latent"]
    images = torch.stack([data[i]["image"] for i in good]).float() / 255
    with torch.no_grad():
        want = autoencoder.encode(images).mean
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="file 3 is broken"):
        store.gather(torch.tensor([2, 3]))


def test_too_many_unreadable_samples_are_an_error(tmp_path, autoencoder):
    contents = latent_contents(autoencoder, Files(set(range(30)), 60), TRANSFORM)
    with pytest.raises(UserError, match="cannot be read; the budget"):
        fill(tmp_path, contents, batch_size=4)


def test_image_rows_reads_what_was_planned_and_what_was_not():
    rows = ImageRows(Files(bad={1}), TRANSFORM)
    batches = [torch.tensor([5, 1]), torch.tensor([1]), torch.tensor([2, 3])]
    rows.plan(batches)
    first = rows.read(batches[0])
    assert first.rows.tolist() == [5]
    assert first.unreadable == {1: "file 1 is broken"}
    assert rows.read(batches[1]).rows.tolist() == []
    assert rows.read(batches[2]).rows.tolist() == [2, 3]
    assert (rows.read(torch.tensor([9, 0])).images[:, 0, 0, 0] * 255).tolist() == [9, 0]
    rows.plan(batches)
    assert rows.read(torch.tensor([4])).rows.tolist() == [4], "out of plan"
    rows.close()


def test_keys_are_the_datasets_own_names(tmp_path):
    for name in ("b/2.png", "a/1.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    config = ImageFolderConfig(folder=tmp_path, val_folder=tmp_path)
    data = config.build("train", tmp_path / "cache")
    assert keys_of(data) == ["a/1.png", "b/2.png", "b/3.png"]
    assert keys_of(subset(data, torch.tensor([2, 0]))) == ["b/3.png", "a/1.png"]


# ---- tokens and vectors


class Rows(Encoder):
    """A grid of 4 x 6 tokens of width 3 that say where they are and how bright the image is."""

    name, dim, grid = "rows", 3, (4, 6)

    def __init__(self, zero_at: tuple[float, int] | None = None):
        super().__init__()
        self.zero_at = zero_at
        self.freeze()

    def forward(self, images: Tensor) -> EncoderOutput:
        r, c = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
        bright = (images.mean((1, 2, 3)) * 255).round()
        place = torch.stack([r.flatten(), c.flatten()], 1).expand(len(images), -1, -1)
        tokens = torch.cat([place, 1 + bright.view(-1, 1, 1).expand(-1, 24, 1)], 2)
        if self.zero_at is not None:
            tokens[bright == self.zero_at[0], self.zero_at[1]] = 0
        return EncoderOutput(pooled=tokens.mean(1), tokens=tokens)

    def digest(self) -> str:
        return "0"

    def fingerprint(self) -> dict[str, object]:
        return {"kind": "rows", "weights": "0", "output": self.output}


def test_tokens_are_the_encoders_at_unit_length(tmp_path, data):
    source = tiny_dinov2(tmp_path / "model")
    encoder = DinoV2Config(source=source, resolution=42).build()
    store = cache_tokens(encoder, data, TRANSFORM, tmp_path / "store", dtype="float32")
    want = F.normalize(encoder(images_of(data)).tokens, dim=-1)
    torch.testing.assert_close(store.gather(torch.arange(COUNT))["tokens"], want)
    assert store.manifest.extra == {"unit": True, "grid": [3, 3]}
    other = DinoV2Config(source=source, resolution=42, output="tokens").build()
    assert (
        token_contents(other, data, TRANSFORM).manifest
        == token_contents(encoder, data, TRANSFORM).manifest
    ), "what `vector` gives has nothing to do with the tokens"


def test_tokens_are_pooled_on_their_grid_not_in_their_sequence():
    tokens = Rows()(torch.zeros(1, 3, 4, 4)).tokens  # [1, 24, 3]: row, column, 1
    pooled = pool_tokens(tokens, (4, 6), (2, 3))
    want = [[r, c, 1.0] for r in (0.5, 2.5) for c in (0.5, 2.5, 4.5)]
    assert pooled[0].tolist() == want
    uneven = pool_tokens(tokens, (4, 6), (3, 4))[0].view(3, 4, 3)
    assert uneven[:, 0, 0].tolist() == [0.5, 1.5, 2.5]  # windows 0-1, 1-2, 2-3
    assert uneven[0, :, 1].tolist() == [0.5, 1.5, 3.5, 4.5]
    with pytest.raises(UserError, match="grid of 4 x 6: they cannot be pooled to 5 x 2"):
        pool_tokens(tokens, (4, 6), (5, 2))


def test_pooled_tokens_say_so_and_are_normalised_afterwards(tmp_path, data):
    contents = token_contents(Rows(), data, TRANSFORM, grid=(2, 3), dtype="float32")
    assert contents.manifest.fields["tokens"].shape == (6, 3)
    assert contents.manifest.extra == {"unit": True, "grid": [2, 3], "pooled_from": [4, 6]}
    store = fill(tmp_path, contents)
    got = store.gather(torch.arange(COUNT))["tokens"]
    torch.testing.assert_close(got.norm(dim=-1), torch.ones(COUNT, 6))
    pooled = pool_tokens(Rows()(images_of(data)).tokens, (4, 6), (2, 3))
    torch.testing.assert_close(got, F.normalize(pooled, dim=-1))


def test_int8_tokens_are_within_half_a_step(tmp_path, data):
    store = cache_tokens(Rows(), data, TRANSFORM, tmp_path, dtype="int8", unit=False)
    want = Rows()(images_of(data)).tokens
    span = want.amax(1, keepdim=True) - want.amin(1, keepdim=True)
    got = store.gather(torch.arange(COUNT))["tokens"].float()
    assert ((got - want).abs() <= span / 510 + want.abs() * 1e-3).all()


def test_a_zero_token_names_sample_and_token():
    contents = token_contents(Rows(zero_at=(6, 5)), Files(set()), TRANSFORM)
    contents.compute(torch.arange(5))
    with pytest.raises(UserError, match="token 5 of sample 6 is zero"):
        contents.compute(torch.arange(5, 9))


def test_an_encoder_without_tokens_is_told_what_to_do(data):
    encoder = Rows()
    encoder.grid = None
    with pytest.raises(UserError, match="has no tokens: store its vectors"):
        token_contents(encoder, data, TRANSFORM)


def test_vectors_are_the_encoders_output(tmp_path, data):
    store = fill(tmp_path / "a", vector_contents(Rows(), data, TRANSFORM))
    got = store.gather(torch.arange(COUNT))
    torch.testing.assert_close(got["vector"], Rows().vector(images_of(data)))
    assert torch.equal(got["label"], data.labels)
    unit = fill(tmp_path / "b", vector_contents(Rows(), data, TRANSFORM, unit=True))
    torch.testing.assert_close(
        unit.gather(torch.arange(COUNT))["vector"], F.normalize(got["vector"], dim=1)
    )


# ---- texts


@pytest.fixture(scope="module")
def text_encoder() -> TextEncoder:
    return MiniLMConfig(length=16).build()


def test_texts_are_stored_once_and_found_by_sample(tmp_path, text_encoder):
    words = ["a cat", "a dog", "a cat", "", None, "two\nlines \\n", "a dog"]
    texts = Texts.of("words", words)
    assert texts.unique == ["a cat", "a dog", "two\nlines \\n", ""]
    assert texts.of_sample.tolist() == [0, 1, 0, 3, -1, 2, 1]
    store = cache_texts(text_encoder, texts, tmp_path, dtype="float32", batch_size=3)
    assert list(store.keys) == [text_key(text) for text in texts.unique]
    rows = text_rows(store)
    assert torch.equal(rows, texts.of_sample)
    got = store.gather(rows[rows >= 0])["embedding"]
    want = text_encoder([w for w in words if w is not None]).embedding
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert stored_texts(store).unique == texts.unique


def test_sequences_come_with_their_mask(tmp_path):
    encoder = ClipTextConfig(source=tiny_clip_text(tmp_path / "model")).build()
    texts = Texts.of("words", ["a red cat", "the small green house of a dog"])
    store = cache_texts(encoder, texts, tmp_path / "store", dtype="float32")
    got = store.gather(torch.arange(3))
    want = encoder(texts.unique)
    torch.testing.assert_close(got["embedding"], want.sequence)
    assert torch.equal(got["mask"].bool(), want.mask)


def test_a_changed_text_file_or_index_is_found_out(tmp_path, text_encoder):
    texts = Texts.of("words", ["a cat", "a dog"])
    store = cache_texts(text_encoder, texts, tmp_path)
    file = tmp_path / "texts.txt"
    file.write_text(file.read_text().replace("cat", "bat"))
    with pytest.raises(UserError, match=r"texts\.txt or .* is damaged or of another store"):
        text_rows(store)
    file.write_text(file.read_text().replace("bat", "cat"))
    assert text_rows(store).tolist() == [0, 1]
    index = tmp_path / "text_of_sample.safetensors"
    save_file({"row": torch.tensor([1, 0])}, index)
    with pytest.raises(UserError, match=r"text_of_sample.* is damaged or of another store"):
        text_rows(store)
    file.unlink()
    index.unlink()
    with pytest.raises(UserError, match="run the command that made it again"):
        text_rows(store)
    cache_texts(text_encoder, texts, tmp_path)
    assert text_rows(open_store(tmp_path)).tolist() == [0, 1]


def test_the_class_names_rows_are_the_labels_and_the_empty_prompt_is_last(data):
    texts = class_texts(data, "a photo of a {}")
    assert texts.unique == ["a photo of a cat", "a photo of a dog", "a photo of a house", ""]
    assert texts.of_sample.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"has no \{\}"):
        class_texts(data, "a photo")
    with pytest.raises(UserError, match="has no classes"):
        class_texts(Files(set()))


def test_captions_are_read_without_decoding_images(tmp_path):
    for n, caption in enumerate(["one", "two", "one"]):
        (tmp_path / f"{n}.png").write_bytes(b"no image at all")
        (tmp_path / f"{n}.txt").write_text(caption)
    (tmp_path / "3.png").write_bytes(b"")  # without its text
    config = ImageFolderConfig(folder=tmp_path, val_folder=tmp_path, captions=True)
    data = config.build("train", tmp_path / "cache")
    assert captions(data).of_sample.tolist() == [0, 1, 0, -1]
    assert captions(subset(data, torch.tensor([2, 1]))).unique == ["one", "two", ""]
    with pytest.raises(UserError, match=r"data\.captions=true"):
        captions(ImageFolderConfig(folder=tmp_path, val_folder=tmp_path).build("train", tmp_path))


def test_captions_of_datasets_that_gather(data):
    from latentsmith.data.shapes import ShapesConfig

    shapes = ShapesConfig(resolution=16, train_count=12, val_count=4).build("train", Path())
    texts = captions(shapes)
    assert [texts.unique[row] for row in texts.of_sample] == [
        shapes[i]["caption"] for i in range(12)
    ]
    with pytest.raises(UserError, match="gives no captions"):
        captions(data)


def test_texts_of_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n a dog \na cat\n", encoding="utf-8")
    texts = file_texts(file)
    assert texts.unique == ["a cat", "a dog", ""]
    assert texts.of_sample.tolist() == [0, 2, 1, 0]
    with pytest.raises(UserError, match="cannot read texts"):
        file_texts(tmp_path / "none.txt")
    file.write_text("")
    with pytest.raises(UserError, match="has no texts"):
        file_texts(file)


def test_long_texts_are_counted_aloud(tmp_path, text_encoder, caplog):
    texts = Texts.of("words", ["a cat", "a dog " * 30])
    fill(tmp_path, text_contents(text_encoder, texts))
    assert "1 of the texts computed now are longer than 16 tokens" in caplog.text
