"""Autoencoders as ONNX graphs: what onnxruntime answers, what is told beside them, what is refused.

Tracing a graph takes half a minute of a core: one small autoencoder does for most tests."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from helpers.exporting import Ask, run_cards
from helpers.fields import field_autoencoder
from helpers.tiny_models import tiny_semantic
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.data.fields.coordinates import grid
from latentsmith.errors import UserError
from latentsmith.export import onnx_graphs
from latentsmith.export.alone import FILES
from latentsmith.export.folder import export
from latentsmith.export.onnx_graphs import FieldDecoder, Graph, _compare, _convert, write_onnx
from latentsmith.export.saved import open_saved

ONNX = "onnx/"


def images(count: int, height: int, width: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, height, width, generator=rng)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A run's regularized autoencoder, exported by the command line with its graphs. (None is
    trained here.)"""
    folder = tmp_path_factory.mktemp("onnx")
    sizes = {"block_out_channels": [4, 4], "layers_per_block": 1, "norm_num_groups": 2}
    made = KLAutoencoderConfig(in_channels=3, latent_channels=2, **sizes).build()
    made.measure_normalizer([images(8, 8, 8)])
    made.save_pretrained(folder / "model")
    words = ["scale=smoke"]
    with Run.open(folder / "run", compose("mmreg", words), words) as run:
        for stage in ("references", "pretrain", "baseline"):
            run.mark_done(stage, {} if stage == "references" else {"model": str(folder / "gone")})
        run.mark_done("regularized", {"model": str(folder / "model"), "samples": 640, "ema": True})
    out = str(folder / "out")
    assert (
        main(["export", str(folder / "run"), "--model", "regularized", "--onnx", "--out", out]) == 0
    )
    return Path(out)


def test_where_latentsmith_is_not_the_graphs_answer_as_the_weights_do(exported):
    """On sizes that they were neither traced nor checked with."""
    given = images(2, 6, 10)
    code = (
        "mean, logvar = to_latents(x['images'].numpy())\n"
        "out['mean'], out['back'] = torch.from_numpy(mean), torch.from_numpy(to_images(mean))\n"
        "out['torch'] = vae.encode(2 * x['images'] - 1).latent_dist.mode()"
    )
    ask = Ask(exported, code, {"images": given}, [FILES, ONNX])
    made = run_cards(exported.parent, {"it": ask})["it"]
    ours = open_saved(exported)
    with torch.no_grad():
        mean = ours.encode(given).mode()
        torch.testing.assert_close(made["mean"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made["torch"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made["back"], ours.decode(mean), rtol=1e-4, atol=1e-5)


def test_shapes_scale_and_difference_are_told(exported):
    about = json.loads((exported / "onnx" / "autoencoder.json").read_text())
    latents = ["batch", 2, "height / factor", "width / factor"]
    assert about["encoder"]["takes"]["images"] == {
        "shape": ["batch", 3, "height", "width"], "range": [0, 1],
    }  # fmt: skip
    assert about["encoder"]["gives"] == {n: {"shape": latents} for n in ("mean", "logvar")}
    assert about["decoder"]["takes"] == {"latents": {"shape": latents}}
    normalizer = open_saved(exported).require_normalizer()
    assert about["scaling_factor"] == pytest.approx(normalizer.scaling_factor)
    assert about["latents_mean"] == pytest.approx(normalizer.mean.tolist())
    assert about["factor"] == 2
    most = about["differs_from_torch_by"]
    assert set(most) == {"encoder", "decoder"} and all(0 < off < 1e-4 for off in most.values())
    text = (exported / "README.md").read_text()
    assert "onnxruntime differs from torch by at most encoder " in text
    assert "\n# run-regularized\n" in text and "| samples | 640 |" in text
    assert "| recipe | mmreg |" in text and "| settings | scale=smoke |" in text


def test_axes_are_called_what_they_count(exported):
    import onnx

    graph = onnx.load(exported / "onnx" / "encoder.onnx").graph
    axes = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert axes[0] == "batch" and axes[1] == 3


def test_a_graph_that_answers_otherwise_is_not_kept(exported, monkeypatch):
    file = exported / "onnx" / "decoder.onnx"
    ours = open_saved(exported)
    graph = next(g for g in onnx_graphs.graphs_of(ours) if g.name == "decoder")
    assert _compare(graph, file) < 1e-4
    with torch.no_grad():
        ours.model.decoder.conv_out.bias += 1e-3
    with pytest.raises(
        UserError, match=r"decoder.onnx is not kept: its images .* by 0.00.* allowed"
    ):
        _compare(graph, file)


def test_all_or_nothing(exported, tmp_path, monkeypatch):
    def wrong(graph, file, autoencoder):
        file.write_bytes((exported / "onnx" / "decoder.onnx").read_bytes())
        raise UserError("no")

    monkeypatch.setattr(onnx_graphs, "_convert", wrong)
    with pytest.raises(UserError, match="no"):
        export(open_saved(exported), tmp_path / "out", name="x", onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lacking", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_what_brings_it(exported, tmp_path, monkeypatch, lacking):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == lacking else real(n, *a)
    )
    with pytest.raises(UserError, match=rf"{lacking} is not installed: pip install 'latents.*onnx"):
        write_onnx(open_saved(exported), tmp_path)


@pytest.mark.parametrize("decoder", ["scan", "joint"])
def test_decoders_that_sort_are_refused_by_name(tmp_path, decoder):
    autoencoder = field_autoencoder(decoder)
    with pytest.raises(
        UserError, match=rf"decoder={decoder} scans queries .*no stable sort: leave"
    ):
        write_onnx(autoencoder, tmp_path)


def test_what_no_operator_says_is_a_sentence(exported, tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, latents):
            return latents.sort(stable=True, dim=1).values

    graph = Graph(
        "decoder", Odd(), [{"latents": torch.rand(2, 3)}], {"latents": {0: "batch"}}, ("y",)
    )
    with pytest.raises(
        UserError, match=r"the decoder of this autoencoder \(kl-autoencoder\) cannot"
    ):
        _convert(graph, tmp_path / "x.onnx", open_saved(exported))


def test_nothing_to_make_graphs_of_is_told(tmp_path):
    from latentsmith.backbones.text_inverter import TextInverterConfig

    network = TextInverterConfig(width=8, depth=1, heads=2).build(8, 4, (3,))
    with pytest.raises(
        UserError, match="--onnx writes the graphs of an autoencoder, and there is no"
    ):
        export(network, tmp_path / "out", name="x", onnx=True)


def test_the_decoder_of_fields_is_asked_as_in_its_graph():
    """What is traced, without tracing it: orders found before, queries of any number."""
    autoencoder = field_autoencoder("cross").eval()
    latents, asked = torch.randn(3, 12, 2, 2), grid(7, 2)
    with torch.no_grad():
        want = autoencoder.decode_at(latents, asked)
        torch.testing.assert_close(FieldDecoder(autoencoder)(latents, asked), want)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["cross", "local", "pointwise"])
def test_decoders_of_fields(tmp_path, decoder):
    autoencoder = field_autoencoder(decoder).eval()
    autoencoder.measure_normalizer([images(6, 24, 24)])
    out = export(autoencoder, tmp_path / "out", name="x", onnx=True)
    latents, asked = torch.randn(5, 12, 2, 2), 2 * torch.rand(49, 2) - 1
    code = "y = to_values(x['latents'].numpy(), x['asked'].numpy())\nout['y'] = torch.from_numpy(y)"
    ask = Ask(out, code, {"latents": latents, "asked": asked}, [ONNX])
    made = run_cards(tmp_path, {"it": ask})["it"]
    with torch.no_grad():
        want = autoencoder.decode_at(latents, asked)
    torch.testing.assert_close(made["y"], want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_semantic_autoencoder(tmp_path):
    built = tiny_semantic(tmp_path)
    out = export(built, tmp_path / "out", name="x", onnx=True)
    given = images(4, 24, 24)
    code = (
        "mean, logvar = to_latents(x['images'].numpy())\n"
        "out['mean'], out['back'] = torch.from_numpy(mean), torch.from_numpy(to_images(mean))"
    )
    made = run_cards(tmp_path, {"it": Ask(out, code, {"images": given}, [ONNX])})["it"]
    with torch.no_grad():
        mean = built.encode(given).mode()
        torch.testing.assert_close(made["mean"], mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made["back"], built.decode(mean), rtol=1e-4, atol=1e-4)
