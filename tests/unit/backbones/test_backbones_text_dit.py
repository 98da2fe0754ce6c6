"""text_dit: what its attention sees of texts and sources, its start, its empty prompt, its size."""

import pytest
import torch
from torch import nn

from helpers.backbones import randomized
from latentsmith.backbones.base import BACKBONES
from latentsmith.backbones.blocks.attention import CrossAttention
from latentsmith.backbones.dit import SIZES, SiTConfig
from latentsmith.backbones.export import load_backbone, save_backbone
from latentsmith.backbones.text_dit import TextDiT, TextDiTConfig
from latentsmith.errors import UserError
from latentsmith.registry import read

LATENT, LENGTH, WIDTH = (4, 6, 8), 7, 10
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def small(**settings) -> TextDiTConfig:
    sizes = {"width": 24, "depth": 2, "heads": 3, "text_width": WIDTH, "text_length": LENGTH}
    return TextDiTConfig(**(sizes | settings))


def built(**settings) -> TextDiT:
    """Random weights, float64, told of an empty prompt of two tokens."""
    network = randomized(small(**settings).build(LATENT)).double()
    rng = torch.Generator().manual_seed(5)
    null = torch.randn(LENGTH, WIDTH, generator=rng, dtype=torch.float64)
    network.set_null(null, torch.arange(LENGTH) < 2)
    return network


def inputs(count: int = 3):
    """(z, t, {text, mask}, source), float64; texts of 2, 3, … tokens."""
    rng = torch.Generator().manual_seed(0)
    z, source = torch.randn(2, count, *LATENT, generator=rng, dtype=torch.float64)
    text = torch.randn(count, LENGTH, WIDTH, generator=rng, dtype=torch.float64)
    mask = torch.arange(LENGTH) < torch.arange(2, 2 + count)[:, None]
    return z, torch.rand(count, generator=rng).double(), {"text": text, "mask": mask}, source


def moved(a, b):
    """Largest change of each sample [B]."""
    return (a - b).abs().amax((1, 2, 3))


# Text --------------------------------------------------------------------------------------------


def test_cross_attention_is_torchs():
    ours = randomized(CrossAttention(24, 3)).double()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 24, generator=rng, dtype=torch.float64)
    others = torch.randn(2, 7, 24, generator=rng, dtype=torch.float64)
    seen = torch.tensor([[1, 1, 0, 1, 0, 0, 0], [1] * 7]).bool()
    for mask in (None, seen):
        hidden = None if mask is None else ~mask
        want = theirs(x, others, others, key_padding_mask=hidden, need_weights=False)[0]
        torch.testing.assert_close(ours(x, others, mask), want, **CLOSE)


def test_what_counts_in_part():
    attention = randomized(CrossAttention(24, 3)).double()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 24, generator=rng, dtype=torch.float64)
    others = torch.randn(2, 4, 24, generator=rng, dtype=torch.float64)
    seen = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]]).bool()
    assert torch.equal(attention(x, others, seen.double()), attention(x, others, seen))
    twice = torch.cat([others, others[:, 3:]], dim=1)
    parts = torch.tensor([[1, 1, 0, 0.3, 0.7]] * 2).double()
    whole = torch.tensor([[1, 1, 0, 1]] * 2).bool()
    torch.testing.assert_close(attention(x, twice, parts), attention(x, others, whole), **CLOSE)
    # by hand: weights of a softmax, each times how much it counts
    counts = torch.rand(2, 4, generator=rng, dtype=torch.float64)
    q = attention.q(x).unflatten(2, (3, 8)).transpose(1, 2)
    k, v = attention.kv(others).unflatten(2, (2, 3, 8)).unbind(2)
    weights = (q @ k.permute(0, 2, 3, 1) / 8**0.5).exp() * counts[:, None, None]
    mixed = weights / weights.sum(-1, keepdim=True) @ v.transpose(1, 2)
    want = attention.proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, others, counts), want, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_masked_text_changes_nothing_and_other_text_does(dtype, qk_norm):
    network = built(qk_norm=qk_norm)
    z, t, told, _ = inputs()
    told["mask"] = told["mask"].to(dtype)
    before = network(z, t, told).sample
    for place, changes in ((6, False), (1, True)):
        text = told["text"].clone()
        text[:, place] = text[:, place].flip(-1)
        after = network(z, t, told | {"text": text}).sample
        if changes:
            assert moved(after, before).min() > 1e-3
        else:
            assert torch.equal(after, before)
    plain = network(z, t, {"text": told["text"]}).sample
    assert moved(plain, before).min() > 1e-3, "without a mask, all positions count"
    full = torch.ones_like(told["mask"])
    torch.testing.assert_close(network(z, t, told | {"mask": full}).sample, plain, **CLOSE)


def test_the_length_of_padding_does_not_matter():
    network = built()
    z, t, told, _ = inputs()
    before = network(z, t, told).sample
    rng = torch.Generator().manual_seed(2)
    padding = torch.randn(3, 5, WIDTH, generator=rng, dtype=torch.float64)
    longer = {
        "text": torch.cat([told["text"], padding], 1),
        "mask": torch.cat([told["mask"], torch.zeros(3, 5, dtype=torch.bool)], 1),
    }
    shorter = {name: value[:, :4] for name, value in told.items()}  # the longest text has 4
    for other in (longer, shorter):
        torch.testing.assert_close(network(z, t, other).sample, before, **CLOSE)


def test_a_text_without_tokens_says_nothing_at_all():
    network = built()
    z, t, told, _ = inputs()
    none = torch.zeros_like(told["mask"])
    out = network(z, t, told | {"mask": none}).sample
    assert out.isfinite().all()
    assert torch.equal(network(z, t, {"text": told["text"].flip(-1), "mask": none}).sample, out)


def test_scale_of_the_text_does_not_matter():
    network = built()
    z, t, told, _ = inputs()
    louder = told | {"text": 50 * told["text"]}
    want = network(z, t, told).sample
    torch.testing.assert_close(network(z, t, louder).sample, want, rtol=1e-5, atol=1e-5)


def test_the_null_condition_is_the_empty_prompt():
    network = built()
    z, t, told, _ = inputs()
    null = network.null(told)
    said = network.conditions
    empty = {"text": said.null_text.expand(3, -1, -1), "mask": said.null_mask.expand(3, -1)}
    assert torch.equal(network(z, t, null).sample, network(z, t, empty).sample)
    nothing = network.nothing(3, torch.device("cpu"))
    assert torch.equal(network(z, t, nothing).sample, network(z, t, empty).sample)
    assert set(network.null({"text": told["text"]})) == {"text"}
    integers = network.null(told | {"mask": told["mask"].long()})["mask"]
    assert integers.dtype == torch.int64 and integers.sum(1).tolist() == [2, 2, 2]


def test_the_empty_prompt_is_kept_and_asked_for(tmp_path):
    network = small().build(LATENT)
    _, _, told, _ = inputs()
    with pytest.raises(UserError, match=r"knows no empty prompt.*set_null"):
        network.null(told)
    for wrong in (torch.zeros(6, WIDTH), torch.full((LENGTH, WIDTH), torch.nan)):
        with pytest.raises(UserError, match="the empty prompt's text embedding is"):
            network.set_null(wrong)
    with pytest.raises(UserError, match="the empty prompt's mask"):
        network.set_null(torch.zeros(LENGTH, WIDTH), torch.ones(3))
    assert network.conditions.null_text.isnan().all(), "half of a refused prompt was kept"
    full = built()
    loaded = load_backbone(save_backbone(full, tmp_path / "network"))
    assert torch.equal(loaded.conditions.null_mask, full.conditions.null_mask)
    assert torch.equal(loaded.null(told)["text"], full.null(told)["text"])
    with pytest.raises(UserError, match=r"texts are \[5, .*kept empty prompt is \[7, "):
        full.null({"text": told["text"][:, :5]})


# Source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["sincos", "learned", "rope", "both"])
@pytest.mark.parametrize("patch", [1, 2])
def test_no_source_is_as_if_nobody_could_have_one(position, patch):
    network = built(position=position, patch=patch, heads=2)
    z, t, told, source = inputs()
    plain = network(z, t, told, taps=[1])
    has = torch.tensor([0, 1, 0])
    out = network(z, t, told | {"source": source, "has_source": has}, taps=[1])
    torch.testing.assert_close(out.sample[[0, 2]], plain.sample[[0, 2]], **CLOSE)
    torch.testing.assert_close(out.hidden[1][[0, 2]], plain.hidden[1][[0, 2]], **CLOSE)
    assert out.hidden[1].shape == plain.hidden[1].shape
    assert moved(out.sample, plain.sample)[1] > 1e-3
    # nor does it matter what stands there
    other = network(z, t, told | {"source": source + 2, "has_source": has.bool()}).sample
    torch.testing.assert_close(other[[0, 2]], plain.sample[[0, 2]], **CLOSE)
    assert moved(other, out.sample)[1] > 1e-3


def test_everybody_has_a_source_unless_told():
    network = built()
    z, t, told, source = inputs()
    given = told | {"source": source}
    all_have = given | {"has_source": torch.ones(3)}
    want = network(z, t, all_have).sample
    torch.testing.assert_close(network(z, t, given).sample, want, **CLOSE)
    full = network.complete(given | {"pooled": torch.zeros(3, 2)})
    assert full["has_source"].tolist() == [True] * 3 and "pooled" not in full


def test_a_source_is_told_from_the_latents_and_by_its_place():
    network = built()
    z, t, told, source = inputs()
    before = network(z, t, told | {"source": source}).sample
    turned = network(z, t, told | {"source": source.flip(-1)}).sample
    assert moved(turned, before).min() > 1e-3
    with torch.no_grad():
        network.source_type.zero_()
    assert moved(network(z, t, told | {"source": source}).sample, before).min() > 1e-3


@pytest.mark.parametrize("position", ["sincos", "learned", "rope", "both"])
def test_a_source_has_the_positions_of_the_latents(position):
    """Without its type, a source that is the latents again is every token twice: attention sees
    the same mean."""
    network = built(position=position, heads=2)
    z, t, told, _ = inputs()
    with torch.no_grad():
        network.source_type.zero_()
    again = network(z, t, told | {"source": z}).sample
    torch.testing.assert_close(again, network(z, t, told).sample, **CLOSE)


def test_null_drops_text_and_source_and_null_text_the_text_alone():
    network = built()
    z, t, told, source = inputs()
    full = network.complete(told | {"source": source})
    null, kept = network.null(full), network.null_text(full)
    for other in (null, kept):
        assert other.keys() == full.keys()
        assert all(other[n].shape == v.shape and other[n].dtype == v.dtype for n, v in full.items())
    assert not null["has_source"].any() and not null["source"].any()
    want = network(z, t, network.null(told)).sample
    torch.testing.assert_close(network(z, t, null).sample, want, **CLOSE)
    assert torch.equal(kept["source"], source) and kept["has_source"].all()
    assert torch.equal(kept["text"], null["text"])
    assert full["has_source"].all() and full["source"].any(), "what was given has changed"
    with pytest.raises(UserError, match=r"no 'has_source'.*complete\(\)"):
        network.null(told | {"source": source})


# Start, gradients, settings ----------------------------------------------------------------------


@pytest.mark.parametrize("with_source", [False, True])
def test_a_fresh_network_is_the_identity_and_puts_out_zero(with_source):
    network = small().build(LATENT).double()
    z, t, told, source = inputs()
    told = told | ({"source": source} if with_source else {})
    out = network(z, t, told, taps=[1, 2])
    assert not out.sample.any()
    assert torch.equal(out.hidden[1], out.hidden[2])
    torch.testing.assert_close(out.hidden[2], network._tokens(z), rtol=0, atol=0)


@pytest.mark.parametrize("with_source", [False, True])
@pytest.mark.parametrize("position", ["learned", "both"])
def test_no_parameter_is_left_without_gradient(position, with_source):
    """Data parallelism waits for all of them, also in steps without sources."""
    network = built(position=position, heads=2, qk_norm=True)
    z, t, told, source = inputs()
    told = told | ({"source": source} if with_source else {})
    network(z, t, told).sample.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    idle = {n for n, p in network.named_parameters() if not p.grad.any()}
    assert idle == (set() if with_source else {"source_type"})


def test_rows_of_a_source_reach_the_loss_only_where_there_is_one():
    network = built()
    z, t, told, source = inputs()
    source.requires_grad_(True)
    given = told | {"source": source, "has_source": torch.tensor([1, 0, 1])}
    network(z, t, given).sample.square().sum().backward()
    assert source.grad is not None
    assert source.grad.flatten(1).any(1).tolist() == [True, False, True]


def test_compiles_without_breaks_and_gives_the_same():
    network = built(position="both", heads=2, qk_norm=True)
    z, t, told, source = inputs()
    given = told | {"source": source, "has_source": torch.tensor([1, 0, 1])}
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.equal(compiled(z, t, given).sample, network(z, t, given).sample)
    torch._dynamo.reset()


def test_learned_positions_are_learned():
    network = small(position="learned").build(LATENT)
    assert network.learned is not None and network.learned.shape == (48, 24)
    assert float(network.learned.detach().std()) == pytest.approx(0.02, rel=0.05)
    z, t, told, _ = inputs()
    network = built(position="learned")
    before = network(z, t, told).sample
    with torch.no_grad():
        network.learned[0] = network.learned[0].flip(0)
    assert moved(network(z, t, told).sample, before).min() > 1e-3


def test_settings():
    config = read(BACKBONES, {"kind": "text_dit", "size": "XL", "predicts": "noise"})
    assert isinstance(config, TextDiTConfig) and config.shape() == SIZES["XL"]
    assert TextDiTConfig().predicts == "velocity" and TextDiTConfig().patch == 1
    with pytest.raises(ValueError, match="4 x heads"):
        small(position="rope", heads=4)
    with pytest.raises(UserError, match="conditioned on texts, not on 5 classes"):
        small().build(LATENT, 5)


def test_published_scale_has_as_many_weights_as_the_module_says():
    def weights(network):
        return sum(p.numel() for p in network.parameters())

    with torch.device("meta"):
        ours = TextDiTConfig(size="XL", text_width=4096, text_length=120).build((96, 16, 16))
        classes = SiTConfig(size="XL", patch=1).build((96, 16, 16), 1000)
    d, depth = 1152, 28
    per_block = (4 + 4 + 8 + 9) * d * d + (4 + 4 + 5 + 9) * d  # attentions, MLP, modulation
    around = 96 * d + d + (256 + d + 2) * d + (4096 + d + 2) * d + d  # patches, time, text, type
    last = 2 * d * d + 2 * d + 96 * d + 96
    assert weights(ours) == depth * per_block + around + last == 940_234_848
    assert weights(classes) == 675_000_672


def test_wrong_conditions_are_told():
    network = built()
    z, t, told, source = inputs()
    wrong = [
        ({"mask": told["mask"]}, "has no 'text'"),
        (told | {"pooled": z}, "also has 'pooled'"),
        (told | {"text": told["text"][:, :, :3]}, r"texts of shape \[3, 7, 3\]"),
        (told | {"mask": told["mask"][:, :3]}, r"mask of shape \[3, 3\]"),
        (told | {"source": source[:, :2]}, r"source of shape \[3, 2, 6, 8\]"),
        (told | {"source": source, "has_source": torch.ones(2)}, r"has_source of shape \[2\]"),
        (told | {"has_source": torch.ones(3)}, "has no 'source'"),
    ]
    for condition, message in wrong:
        with pytest.raises(UserError, match=message):
            network(z, t, condition)
    with pytest.raises(UserError, match="has no 'text'"):
        network.complete({})


def test_networks_that_edit_nothing_say_so():
    network = SiTConfig(width=24, depth=1, heads=3).build((4, 8, 8), None)
    assert not network.edits and built().edits
    with pytest.raises(UserError, match="a sit network is given no image to edit"):
        network.null_text({})
