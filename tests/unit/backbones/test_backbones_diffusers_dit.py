"""diffusers' DiTTransformer2DModel as an oracle."""

import copy

import pytest
import torch

from helpers.backbones import randomized
from latentsmith.backbones.diffusers_dit import from_diffusers_dit
from latentsmith.errors import UserError


def theirs(**settings):
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    defaults = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2}
    defaults |= {"sample_size": 8, "num_embeds_ada_norm": 5, "out_channels": 8, "norm_eps": 1e-6}
    model = DiTTransformer2DModel(**(defaults | settings))
    randomized(model)
    for block in model.transformer_blocks[1:]:  # equal, as in the checkpoints it was made for
        block.norm1.emb = copy.deepcopy(model.transformer_blocks[0].norm1.emb)
    return model.eval()


@pytest.mark.parametrize("outputs", [8, 4])
def test_the_same_output(outputs):
    model = theirs(out_channels=outputs)
    network = from_diffusers_dit(model)
    rng = torch.Generator().manual_seed(2)
    z, label = torch.randn(3, 4, 8, 8, generator=rng), torch.tensor([0, 4, 5])
    index = torch.tensor([0, 400, 999])
    with torch.no_grad():
        expected = model(z, index, label).sample
        out = network(z, (index.double() + 1) / 1000, {"label": label})
    torch.testing.assert_close(out.sample, expected[:, :4], rtol=1e-5, atol=1e-5)
    assert expected.abs().mean() > 0.1
    if outputs == 8:
        torch.testing.assert_close(out.variance, expected[:, 4:], rtol=1e-5, atol=1e-5)
    published = from_diffusers_dit(model, spacing=0)
    other = published(z, (index.double() + 1) / 1000, {"label": label}).sample
    assert (other - out.sample).abs().max() > 1e-3


def test_from_a_folder(tmp_path):
    model = theirs()
    model.save_pretrained(tmp_path / "dit")
    network = from_diffusers_dit(tmp_path / "dit")
    assert torch.equal(network.final.linear.weight, model.proj_out_2.weight)
    with pytest.raises(UserError, match="cannot load"):
        from_diffusers_dit(tmp_path / "none")


def test_what_it_cannot_hold_is_told():
    with pytest.raises(UserError, match="activation_fn=geglu"):
        from_diffusers_dit(theirs(activation_fn="geglu"))
    with pytest.raises(UserError, match="6 output channels"):
        from_diffusers_dit(theirs(out_channels=6))
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    apart = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, num_layers=2, sample_size=4
    )
    with pytest.raises(UserError, match="trained apart"):
        from_diffusers_dit(apart)
