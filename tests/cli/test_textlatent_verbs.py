"""``encode``, ``invert``, ``roundtrip``, ``infill``, ``sample`` of a textlatent model."""

import json

import numpy as np
import pytest
import torch

from helpers.backbones import randomized
from helpers.texts import small_captions, tiny_sentence
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.cli import main
from latentsmith.data.text.normalizer import VectorNormalizerConfig
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.encoders.text.sentence import SentenceConfig
from latentsmith.errors import UserError
from latentsmith.sampling.text_latent import writing
from latentsmith.sampling.text_latent.search import search
from latentsmith.sampling.text_latent.tokens import TextSamplerConfig
from latentsmith.sampling.text_latent.translator import MadeBy, Translator
from latentsmith.sampling.text_latent.writing import infill, invert, roundtrip

TEXTS = ["a small red circle", "a large blue square on a white background"]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """Untrained, of weights drawn at random, with a real (if tiny) encoder."""
    folder = tmp_path_factory.mktemp("translator")
    _, tokenizer = small_captions(folder)
    network = randomized(MMDiTConfig(size="smoke").build(tokenizer.size, tokenizer.length, (1, 16)))
    process = MaskedText(tokenizer.size, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id)
    normalizer = VectorNormalizerConfig().fit(torch.randn(50, 16) * 0.2 + 0.1)
    settings = {"kind": "sentence", "source": tiny_sentence(folder), "length": 32}
    encoder = SentenceConfig(source=settings["source"], length=32).build()
    made_by = MadeBy({**encoder.fingerprint(), "stored": "float16"}, settings)
    return Translator(TextLatentModel(network.eval(), process), tokenizer, normalizer, made_by)


@pytest.fixture(scope="module")
def model(translator, tmp_path_factory):
    """Its folder."""
    return str(translator.save(tmp_path_factory.mktemp("saved") / "model"))


@pytest.fixture
def files(tmp_path):
    """(texts, latents)."""
    rows = "".join(json.dumps({"caption": text}) + "\n" for text in TEXTS)
    (tmp_path / "texts.jsonl").write_text(rows)
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(2, 16)) * 0.2)
    return str(tmp_path / "texts.jsonl"), str(tmp_path / "z.npy")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def mistake(capsys, *words):
    assert main(list(words)) == 2
    return capsys.readouterr().err


def test_saved_and_loaded_is_the_same(translator, model):
    again = Translator.load(model)
    assert torch.equal(again.encode(TEXTS), translator.encode(TEXTS))
    assert again.made_by == MadeBy(
        json.loads(json.dumps(translator.made_by.fingerprint)), translator.made_by.settings
    )


def test_encode_by_the_model_and_by_its_encoder(translator, model, files, tmp_path):
    given = ["--texts", files[0], "--field", "caption", "--out"]
    assert main(["encode", model, *given, str(tmp_path / "m.npy"), "--draws", "3"]) == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "m.npy"), translator.encode(TEXTS, draws=3)[:, 0].numpy()
    )
    assert main(["encode", model, *given, str(tmp_path / "e.npy"), "--by", "encoder"]) == 0
    found = translator.made_by.build()(TEXTS).embedding
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), found, atol=1e-6)


def test_invert_gives_the_best_first(translator, model, files, tmp_path):
    out = tmp_path / "texts.jsonl.out"
    words = ["invert", model, "--latents", files[1], "--candidates", "5", "--temperature", "1.5"]
    assert main([*words, "--out", str(out)]) == 0
    for row in rows_of(out):
        distances = [row["distance"], *(other["distance"] for other in row["others"])]
        assert len(distances) == 5
        assert distances == sorted(distances)
        assert len({row["text"], *(other["text"] for other in row["others"])}) > 1
    # the first is what the library calls the best of five
    z = translator.normalized(torch.from_numpy(np.load(files[1])).float())
    config = TextSamplerConfig(temperature=1.5, unknown=False)
    rng = torch.Generator().manual_seed(0)
    best = search(translator.model, z, config, rng, candidates=5).best()
    assert [r["text"] for r in rows_of(out)] == translator.tokenizer.decode(best.tokens)


def test_invert_searches(translator, model, files, tmp_path, capsys):
    """More rounds, nearer texts; by the model's own word and by the encoder's."""
    words = ["invert", model, "--latents", files[1], "--candidates", "4", "--temperature", "1.5"]
    for judge in ("model", "encoder"):
        far = []
        for rounds in ("0", "6"):
            out = tmp_path / f"{judge}{rounds}.jsonl"
            more = ["--rounds", rounds, "--rerank", judge, "--out", str(out)]
            assert main([*words, *more]) == 0
            far.append([row["distance"] for row in rows_of(out)])
        assert all(b <= a + 1e-5 for a, b in zip(*far, strict=True)) and sum(far[1]) < sum(far[0])
    told = mistake(capsys, *words, "--rounds", "2", "--rerank", "none")
    assert "nobody would say which text is better" in told
    assert "--rounds -1: 0 or more" in mistake(capsys, *words, "--rounds", "-1")
    cold = mistake(capsys, *words[:4], "--rounds", "2", "--temperature", "0")
    assert "2 rounds at temperature 0 write the same again" in cold


def test_the_encoder_may_judge(translator, model, files, tmp_path):
    out = tmp_path / "judged.jsonl"
    words = ["invert", model, "--latents", files[1], "--candidates", "3", "--rerank", "encoder"]
    assert main([*words, "--out", str(out)]) == 0
    encoder = translator.made_by.build()
    z = translator.normalized(torch.from_numpy(np.load(files[1])).float())
    for row, wanted in zip(rows_of(out), z, strict=True):
        embedded = translator.normalized(encoder([row["text"] or " "]).embedding)
        assert row["distance"] == pytest.approx(float((embedded[0] - wanted).norm()), abs=1e-3)


def test_roundtrip_says_what_came_back(translator, model, files, tmp_path, capsys):
    out = tmp_path / "trips.jsonl"
    words = ["roundtrip", model, "--texts", files[0], "--field", "caption", "--out", str(out)]
    assert main(words) == 0
    assert "of 2 came back the same" in capsys.readouterr().out
    assert [row["text"] for row in rows_of(out)] == TEXTS
    assert all(-1.001 <= row["cosine"] <= 1.001 for row in rows_of(out))
    trips = roundtrip(
        translator, TEXTS, TextSamplerConfig(unknown=False), encoder=translator.made_by.build()
    )
    assert [row["back"] for row in rows_of(out)] == [trip.back for trip in trips]


def test_a_text_that_fills_every_place_is_read_again(translator, monkeypatch):
    """It has no EOS; what is read is cut to leave one place for it."""
    length = translator.tokenizer.length
    full = " ".join(["red"] * length)
    monkeypatch.setattr(writing, "invert", lambda *a, **more: [writing.Written(full, None, ())])
    (trip,) = roundtrip(translator, TEXTS[:1], TextSamplerConfig())
    assert trip.back == full and -1.001 <= trip.cosine <= 1.001
    assert translator.cut([full, "a red circle"]) == [
        " ".join(["red"] * (length - 1)),
        "a red circle",
    ]


def test_infill_keeps_what_is_given(translator, model, tmp_path):
    (tmp_path / "gaps.txt").write_text("a [MASK] red circle at the [MASK] left\n")
    out = tmp_path / "filled.jsonl"
    assert main(["infill", model, "--texts", str(tmp_path / "gaps.txt"), "--out", str(out)]) == 0
    (row,) = rows_of(out)
    given, filled = (translator.tokenizer.splitter.split([row[k]])[0] for k in ("given", "text"))
    for a, b in zip(given, filled, strict=False):
        assert a in (b, "[MASK]")
    assert "[MASK]" not in filled
    one = infill(
        translator, [row["given"]], TextSamplerConfig(unknown=False), latents=torch.zeros(1, 16)
    )
    assert len(one) == 1


def test_sample_writes_texts_and_latents(model, tmp_path, capsys):
    out = tmp_path / "drawn.jsonl"
    assert main(["sample", model, "count=3", "seed=1", "steps=4", "--out", str(out)]) == 0
    assert len(rows_of(out)) == 3
    assert np.load(tmp_path / "drawn.npy").shape == (3, 16)
    capsys.readouterr()
    assert main(["sample", model, "count=3", "seed=1", "steps=4"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == rows_of(out)
    assert main(["sample", model, "count=3", "way=joint"]) == 0


def test_another_encoder_is_refused(translator, model, tmp_path):
    other = SentenceConfig(source=tiny_sentence(tmp_path), length=24).build()
    with pytest.raises(UserError, match="length: 32 there, 24 here"):
        Translator.load(model, encoder=other)


def test_mistakes_are_told(model, files, tmp_path, capsys):
    texts, latents = files
    out = ["--out", str(tmp_path / "x")]
    assert "either --points FILE" in mistake(capsys, "encode", model, *out)
    assert "no field 'text'" in mistake(capsys, "encode", model, "--texts", texts, *out)
    assert "is not a readable .npy file of numbers" in mistake(
        capsys, "invert", model, "--latents", texts
    )
    assert "--top-p 2.0" in mistake(capsys, "invert", model, "--latents", latents, "--top-p", "2")
    words = ["--candidates", "2", "--temperature", "0"]
    told = mistake(capsys, "invert", model, "--latents", latents, *words)
    assert "set a temperature above 0" in told
    np.save(tmp_path / "wide.npy", np.zeros((2, 20), np.float32))
    told = mistake(capsys, "invert", model, "--latents", str(tmp_path / "wide.npy"))
    assert "the model takes [N, 16]" in told
    (tmp_path / "plain.txt").write_text("a red circle\n")
    told = mistake(capsys, "infill", model, "--texts", str(tmp_path / "plain.txt"))
    assert "has no gap: write [MASK]" in told
    assert "Did you mean 'count'" in mistake(capsys, "sample", model, "cont=2")
    assert "choose of sequential" in mistake(capsys, "sample", model, "way=round")
    told = mistake(capsys, "invert", str(tmp_path), "--latents", latents)
    assert "holds no model of texts and latents" in told


def test_latents_without_a_known_encoder(translator):
    """Imported latents: the model works, the encoder cannot be asked."""
    imported = Translator(
        translator.model, translator.tokenizer, translator.normalizer, MadeBy({"kind": "imported"})
    )
    found = invert(imported, torch.zeros(2, 16), TextSamplerConfig())
    assert [len(written.others) for written in found] == [0, 0]
    with pytest.raises(UserError, match="were imported"):
        imported.made_by.build()
