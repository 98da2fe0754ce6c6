"""A generator's autoencoder, beside it in its export."""

from pathlib import Path

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.errors import UserError
from latentsmith.export.part import Part

FOLDER = "vae"

OPEN = """\
import torch
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained(".", subfolder="vae").eval()
"""
OPEN_OWN = """\
import torch
from diffusers import AutoModel

vae = AutoModel.from_pretrained("./vae", trust_remote_code=True).eval()
"""
CODE = """\
mean, std = (torch.tensor(vae.config[name]) for name in ("latents_mean", "latents_std"))
mean, std = mean[:, None, None], std[:, None, None] / vae.config.scaling_factor
decode = lambda z: (vae.decode(z * std + mean).sample + 1) / 2
"""
NOTE = (
    "`decode` takes what the network makes [N, C, h, w] to images in [0, 1]. Pipelines that know "
    "`scaling_factor` alone come near it, and no nearer, where channels were scaled one by one."
)


def write_autoencoder(autoencoder: KLAutoencoder, folder: Path) -> Part:
    """Write ``folder/vae``, with the scale of the latents in its config."""
    autoencoder.save_pretrained(folder / FOLDER)
    return describe_autoencoder(autoencoder)


def describe_autoencoder(autoencoder: Autoencoder) -> Part:
    """What the card says of ``vae/``, wherever it was written."""
    if isinstance(autoencoder, KLAutoencoder):
        return Part(f"{FOLDER}/", "autoencoder, diffusers' `AutoencoderKL`", OPEN + CODE, NOTE)
    what = f"autoencoder, `{autoencoder.kind}`, its code beside it"
    return Part(f"{FOLDER}/", what, OPEN_OWN + CODE, NOTE)


def is_in(pipeline: str, autoencoder: KLAutoencoder) -> bool | None:
    """Whether a pipeline (hub id or folder) has this autoencoder; None where its own is not on
    this machine: nothing is downloaded to compare."""
    place = _place(pipeline)
    if place is None:
        return None
    try:
        own = KLAutoencoderConfig(source=str(place)).build()
    except UserError:  # of the hub's cache, which may hold a part of it
        return None
    return own.digest() == autoencoder.digest()


def _place(pipeline: str) -> Path | None:
    folder = Path(pipeline).expanduser()
    if folder.is_dir():
        return folder / FOLDER if (folder / FOLDER / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pipeline, f"{FOLDER}/config.json")
    return Path(found).parent if isinstance(found, str) else None
