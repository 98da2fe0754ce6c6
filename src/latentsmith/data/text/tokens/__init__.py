"""Texts as numbers and back."""

from latentsmith.data.text.tokens.base import TOKENS, Tokenizer, TokensConfig

__all__ = ["TOKENS", "Tokenizer", "TokensConfig"]
