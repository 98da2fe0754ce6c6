"""Texts, and the latent vectors that belong to them.

`base`: what a corpus is; `captions`, `wordnet`, `file`, `hf_texts`: those there are; `split`: which
texts train and which are held out; `tokens`: texts as numbers and back; `store`: a corpus with its
latents on disk; `build` and `importer`: how one is made; `normalizer`: the latents' scale; `pairs`:
batches, and which rows count as paired.
"""

from latentsmith.data.text.base import CORPORA, Corpus, CorpusConfig

__all__ = ["CORPORA", "Corpus", "CorpusConfig"]
