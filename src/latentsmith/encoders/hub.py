"""Loading frozen encoders from the Hugging Face hub or a folder."""

from typing import Any

from latentsmith.errors import UserError
from latentsmith.utils.weights import UNREADABLE, reason


def get_it(example: str) -> str:
    """How a user gives weights, for the end of an error message."""
    return (
        f"Give a hub id with network access (such as {example}), the same id already in the "
        "Hugging Face cache with HF_HUB_OFFLINE=1, or a folder written by save_pretrained"
    )


def load_config(source: str, *, kinds: tuple[str, ...], example: str, subfolder: str = "") -> Any:
    """The source's transformers config, or that of the model in its ``subfolder``.

    Raises:
        UserError: it cannot be had, or describes another family of model than ``kinds``.
    """
    from transformers import AutoConfig

    where = f"{source}/{subfolder}" if subfolder else source
    try:
        # said aloud: left out, transformers asks on the terminal whether to run the source's code
        config = AutoConfig.from_pretrained(source, subfolder=subfolder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot load the encoder {where!r}: {reason(error)}. {get_it(example)}"
        ) from error
    if config.model_type not in kinds:
        raise UserError(
            f"{where!r} holds a {config.model_type!r} model, this encoder needs one of "
            f"{', '.join(kinds)}. {get_it(example)}"
        )
    return config


def load_model(
    model_class: Any, source: str, *, example: str, config: Any = None, subfolder: str = ""
) -> Any:
    """Weights in float32, every one of them from the source (or its ``subfolder``); ``config``
    replaces the source's.

    Raises:
        UserError: they cannot be had, or some are missing. (transformers fills missing weights
            with random numbers and a warning; a frozen reference must never be random.)
    """
    import torch

    where = f"{source}/{subfolder}" if subfolder else source
    try:
        model, info = model_class.from_pretrained(
            source,
            config=config,
            subfolder=subfolder,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise UserError(
            f"cannot load the encoder {where!r}: {reason(error)}. {get_it(example)}"
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if missing:
        raise UserError(
            f"{where!r} lacks {len(missing)} weight(s) of {model_class.__name__}, such as "
            f"{missing[0]!r}, and they would stay random. {get_it(example)}"
        )
    return model


def check_multiple(resolution: int, patch: int, *, what: str) -> str | None:
    """A sentence when ``resolution`` is not a positive multiple of ``patch``, else None."""
    if resolution >= patch and resolution % patch == 0:
        return None
    low = max(resolution // patch, 1) * patch
    return (
        f"{what} resolution {resolution} is not a multiple of its patch size {patch}: "
        f"use {low} ({low // patch} x {low // patch} tokens) or {low + patch}"
    )
