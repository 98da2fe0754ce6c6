"""Parts of the transformers, each against a definition written another way."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.backbones import randomized
from latentsmith.backbones.blocks.attention import Attention
from latentsmith.backbones.blocks.embedders import LabelEmbedder, TimeEmbedder
from latentsmith.backbones.blocks.mlp import mlp
from latentsmith.backbones.blocks.modulation import gated, modulate
from latentsmith.backbones.blocks.norms import HeadNorm, normalize
from latentsmith.backbones.blocks.positions import rope_2d, rotate, sincos_2d
from latentsmith.backbones.blocks.weights import Constant, Linear


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sincos_is_diffusers():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    theirs = get_2d_sincos_pos_embed(24, (4, 4), base_size=4, output_type="pt")
    torch.testing.assert_close(sincos_2d(24, (4, 4)), theirs.double(), rtol=0, atol=1e-6)


def test_sincos_of_a_long_grid_by_hand():
    table = sincos_2d(8, (2, 3))
    row, column = 1, 2
    omega = [1.0, 10000**-0.5]
    by_hand = [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in omega]
    torch.testing.assert_close(table[row * 3 + column], torch.tensor(by_hand).double())


def test_rope_scores_depend_on_displacement_alone():
    rows, columns, head = 5, 6, 12
    rope = rope_2d(head, (rows, columns))
    q, k = noise(head), noise(head, seed=1)
    n = rows * columns
    turned = [rotate(v.expand(1, 1, n, head), rope)[0, 0] for v in (q, k)]
    scores = (turned[0] @ turned[1].T).view(rows, columns, rows, columns)
    torch.testing.assert_close(scores[0, 0, 2, 3], scores[2, 1, 4, 4])
    torch.testing.assert_close(scores[3, 4, 1, 0], scores[4, 5, 2, 1])
    torch.testing.assert_close(scores[1, 1, 1, 1], q @ k)
    assert abs(scores[0, 0, 2, 3] - scores[0, 0, 3, 2]) > 1e-3
    assert abs(scores[0, 0, 2, 3] - scores[2, 3, 0, 0]) > 1e-3


def test_rope_turns_by_the_row_and_then_the_column():
    x = torch.tensor([1.0, 1, 0, 0]).double().expand(1, 1, 12, 4)  # planes (0, 2) and (1, 3)
    turned = rotate(x, rope_2d(4, (3, 4)))[0, 0, 2 * 4 + 3]  # row 2, column 3
    by_hand = [math.cos(2), math.cos(3), math.sin(2), math.sin(3)]
    torch.testing.assert_close(turned, torch.tensor(by_hand).double())


def test_rope_keeps_lengths():
    x = noise(2, 3, 8, 4)
    torch.testing.assert_close(rotate(x, rope_2d(4, (2, 4))).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("rope", [None, rope_2d(4, (2, 3))])
def test_attention_one_pair_at_a_time(qk_norm, rope):
    layer = randomized(Attention(8, 2, qk_norm=qk_norm, norm="rms").double())
    x = noise(2, 6, 8)
    q, k, v = F.linear(x, layer.qkv.weight, layer.qkv.bias).split(8, dim=-1)
    expected = torch.zeros(2, 6, 8, dtype=torch.float64)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        qh, kh = q[..., part], k[..., part]
        if layer.q_norm is not None and layer.k_norm is not None:
            qh, kh = (
                y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * n.weight
                for y, n in ((qh, layer.q_norm), (kh, layer.k_norm))
            )
        for b in range(2):
            for i in range(6):
                scores = []
                for j in range(6):
                    qi, kj = qh[b, i], kh[b, j]
                    if rope is not None:
                        qi = rotate(qi, rope[:, i])
                        kj = rotate(kj, rope[:, j])
                    scores.append((qi @ kj) / 2)
                weights = torch.stack(scores).softmax(0)
                expected[b, i, part] = weights @ v[b, :, part]
    expected = F.linear(expected, layer.proj.weight, layer.proj.bias)
    torch.testing.assert_close(layer(x, rope), expected)


def test_mlps():
    x = noise(5, 8)
    gelu = randomized(mlp("gelu", 8, 4.0).double())
    assert gelu.fc1.out_features == 32
    h = F.linear(x, gelu.fc1.weight, gelu.fc1.bias)
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(gelu(x), F.linear(h, gelu.fc2.weight, gelu.fc2.bias))
    swiglu = randomized(mlp("swiglu", 8, 4.0).double())
    assert swiglu.fc2.in_features == 24
    h = F.linear(x, swiglu.fc1.weight, swiglu.fc1.bias)
    h = h[:, :24] * h[:, :24].sigmoid() * h[:, 24:]
    torch.testing.assert_close(swiglu(x), F.linear(h, swiglu.fc2.weight, swiglu.fc2.bias))


def test_norms():
    x = noise(3, 4, 6)
    centered = x - x.mean(-1, keepdim=True)
    layer = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    rms = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(normalize(x, "layer"), layer)
    torch.testing.assert_close(normalize(x, "rms"), rms)
    head = randomized(HeadNorm(6, "layer").double())
    torch.testing.assert_close(head(x), layer * head.weight)


def test_modulation():
    x, shift, scale = noise(2, 5, 3), noise(2, 1, 3, seed=1), noise(2, 1, 3, seed=2)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
    torch.testing.assert_close(gated(x, scale, x.exp()), x + scale * x.exp())


def test_modulated_norm_has_the_gradients_of_its_definition():
    x, shift, scale = noise(2, 5, 4), noise(2, 1, 4, seed=1), noise(2, 1, 4, seed=2)

    def block(x, shift, scale):
        return gated(x, scale, modulate(normalize(x, "layer"), shift, scale))

    leaves = [v.requires_grad_() for v in (x, shift, scale)]
    assert torch.autograd.gradcheck(block, leaves)


@pytest.mark.parametrize("spacing", [0, 1])
def test_time_waves_are_diffusers(spacing):
    from diffusers.models.embeddings import get_timestep_embedding

    embedder = TimeEmbedder(8, scale=100.0, shift=-2.0, spacing=spacing)
    t = torch.tensor([0.0, 0.31, 1.0])
    theirs = get_timestep_embedding(
        100 * t - 2, 256, flip_sin_to_cos=True, downscale_freq_shift=spacing
    )
    torch.testing.assert_close(embedder.waves(t), theirs, rtol=0, atol=2e-5)


def test_the_last_label_is_no_class():
    table = randomized(LabelEmbedder(3, 4))
    assert table.weight.shape == (4, 4)
    assert torch.equal(table(torch.tensor([3, 0])), table.weight[[3, 0]])


def ramp() -> torch.Tensor:
    return torch.arange(1, 5, dtype=torch.float64) / 3


def test_constants_are_not_rounded_and_survive_the_meta_device():
    constant = Constant(ramp)
    assert constant.state_dict() == {}
    assert torch.equal(constant.half()(), ramp().float()) and constant().dtype == torch.float32
    assert torch.equal(constant.double()(), ramp())
    with torch.device("meta"):
        empty = Constant(ramp)
    assert empty().is_meta
    assert torch.equal(empty.to_empty(device="cpu")(), ramp().float())


def test_linear_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Linear(3, 4)
    assert torch.equal(torch.get_rng_state(), before)
