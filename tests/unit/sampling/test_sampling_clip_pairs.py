"""Images and texts in CLIP's one space: equal to transformers' own whole model."""

import torch

from helpers.tiny_models import tiny_whole_clip
from latentsmith.sampling.clip_pairs import ClipPairs


def test_they_are_the_whole_models(tmp_path):
    from transformers import AutoTokenizer

    model = tiny_whole_clip(tmp_path)
    texts = ["a photo of a cat", "the red house", "a photo of a cat"]
    pairs = ClipPairs(str(tmp_path), texts)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        texts, padding="max_length", max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(input_ids=tokens.input_ids, pixel_values=pairs.image.preprocess(images))
    ours = torch.nn.functional.normalize(pairs.images(images), dim=1)
    assert torch.allclose(ours, theirs.image_embeds, atol=1e-5)
    said = torch.nn.functional.normalize(pairs.texts(torch.arange(3)), dim=1)
    assert torch.allclose(said, theirs.text_embeds, atol=1e-5)
    assert torch.equal(pairs.texts(torch.tensor([0, 3, 4])), pairs.texts(torch.tensor([2, 0, 1])))
