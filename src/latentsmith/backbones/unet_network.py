"""The network of ``backbone=sd_unet``; settings and sources: `latentsmith.backbones.sd_unet`."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from latentsmith.backbones.base import Backbone, BackboneOutput, Condition, Tap
from latentsmith.backbones.unet_condition import TIME_IDS, TextCondition
from latentsmith.backbones.unet_lora import export_lora, is_lora
from latentsmith.backbones.unet_taps import (
    as_tokens,
    blocks_of,
    grid_of,
    modules_of,
    path_of,
    tapped,
    up_to,
)
from latentsmith.errors import UserError

if TYPE_CHECKING:
    from latentsmith.backbones.sd_unet import SDUNetConfig


class SDUNet(Backbone):
    """A ``UNet2DConditionModel`` in this library's conventions. Start: `SDUNetConfig.build`.

    Taps: 1 … depth, ``enc_last``, ``mid``, ``dec_first``, or the path of any module that puts out
    a map or tokens; see `latentsmith.backbones.unet_taps`.

    Args:
        unet: with its LoRA, and with ``requires_grad`` as it shall train.
        config: with ``predicts`` and ``path`` filled in.
        latent_shape: (C, H, W); None: the U-Net's own.

    Attributes:
        unet: the diffusers model.
        path: the noise schedule it was trained on; step i of it is t = (i + 1) / T.
        conditions: what it is conditioned on, and its empty prompt (`TextCondition.set_null`).
        width: channels of the middle block.
        grid: (rows, columns) of the middle block.

    Raises:
        UserError: latents of other channels, or of sides that cannot be halved often enough.
    """

    config: "SDUNetConfig"

    def __init__(
        self, unet: Any, config: "SDUNetConfig", latent_shape: tuple[int, int, int] | None = None
    ):
        super().__init__()
        if config.predicts is None or config.path is None:
            raise ValueError("a network needs to know what it predicts, and its noise schedule")
        self.unet, self.config = unet, config
        self.predicts, self.classes = config.predicts, None
        with torch.device("cpu"):  # its table has numbers also where the weights have none (meta)
            self.path = config.path.build()
        self.latent_shape = latent_shape or _own_shape(unet)
        channels, height, width = self.latent_shape
        widths = unet.config.block_out_channels
        factor = 2 ** (len(widths) - 1)
        if channels != unet.config.in_channels:
            raise UserError(
                f"the latents have {channels} channels, the U-Net was made for "
                f"{unet.config.in_channels}: use the autoencoder of its pipeline"
            )
        if height % factor or width % factor or height * width == 0:
            raise UserError(
                f"latents of {height} x {width} cannot be halved {len(widths) - 1} times: use "
                f"sides that are multiples of {factor}"
            )
        self.depth, self.width = len(blocks_of(unet)), widths[-1]
        self.grid = height // factor, width // factor
        self.conditions = TextCondition(unet, config.text_length)
        self._shapes: dict[str, tuple[int, tuple[int, int]]] = {}

    @property
    def takes(self) -> tuple[str, ...]:
        """``text``; of SDXL also ``pooled`` and ``time_ids``. See `Backbone.takes`."""
        return tuple(self.conditions.names)

    # Denoising -----------------------------------------------------------------------------------

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[Tap] = ()
    ) -> BackboneOutput:
        """See `Backbone.forward`; the output has z's dtype, tokens that of the computation.

        Raises:
            UserError: z, t or the condition of another shape, parts of it missing or unknown, taps
                that are nowhere.
        """
        self._check(z, t, condition)
        if not taps:
            sample = self.unet(**self._arguments(z, t, condition), return_dict=False)[0]
            return BackboneOutput(sample.to(z.dtype))
        sample, hidden = self._tapped(self.unet, z, t, condition, taps)
        return BackboneOutput(sample.to(z.dtype), None, hidden)

    def features(
        self, z: Tensor, t: Tensor, condition: Condition, taps: Collection[Tap]
    ) -> dict[Tap, Tensor]:
        """The tokens [B, N, D] that ``forward`` with these taps gives, at the cost of the blocks up
        to the last of them. Arguments and errors as there."""
        self._check(z, t, condition)
        short = up_to(self.unet, [path_of(self.unet, tap) for tap in taps])
        return self._tapped(short, z, t, condition, taps)[1]

    def index(self, t: Tensor) -> Tensor:
        """The step i of T nearest to times [B], as diffusers counts: int64, in [0, T)."""
        return self.path.index(t)

    def null(self, condition: Condition) -> Condition:
        """The empty prompt. See `Backbone.null` and `TextCondition.null`."""
        return self.conditions.null(condition)

    def nothing(self, count: int, device: torch.device) -> Condition:
        """The empty prompt ``count`` times; of XL also an uncropped image of the latents' size.

        Raises UserError when no empty prompt was kept."""
        return self.conditions.nothing(count, self._sides, device)

    def complete(self, condition: Condition) -> Condition:
        """Of XL with ``time_ids``, where it has none: an uncropped image of the latents' size.

        Raises UserError when texts, or of XL their pooled embedding, are missing."""
        return self.conditions.complete(condition, self._sides)

    @property
    def _sides(self) -> list[int]:
        """(height, width) in pixels, as SDXL is told them."""
        return [8 * side for side in self.latent_shape[1:]]

    def undecayed(self) -> list[nn.Parameter]:
        """The LoRA: of low rank, and 0 at the start, it is kept small already."""
        return [p for name, p in self.named_parameters() if p.requires_grad and is_lora(name)]

    def _arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        dtype = self.unet.conv_in.weight.dtype  # frozen weights may be narrow
        layout = torch.channels_last if self.config.channels_last else torch.preserve_format
        given = {"sample": z.to(dtype, memory_format=layout), "timestep": self.index(t)}
        return given | self.conditions.arguments(condition, dtype)

    # A caller's torch.compile would keep the hooks of its first call for ever (it does not look at
    # hooks again): this part stays eager, and runs what `compile` has compiled.
    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def _tapped(
        self, unet: Any, z: Tensor, t: Tensor, condition: Condition, taps: Collection[Tap]
    ) -> tuple[Tensor, dict[Tap, Tensor]]:
        paths = {tap: path_of(self.unet, tap) for tap in taps}
        self._measure(paths)  # refuses what is neither map nor tokens
        with tapped(modules_of(self.unet, paths)) as seen:
            sample = unet(**self._arguments(z, t, condition), return_dict=False)[0]
        unseen = [tap for tap in taps if tap not in seen]
        if unseen:
            raise UserError(
                f"{unseen[0]!r} ran where no hook sees it: do not compile the U-Net as a whole (the"
                " network's own compile(), as train.compile calls it, leaves its blocks visible)"
            )
        return sample, {tap: as_tokens(seen[tap]) for tap in taps}

    def _check(self, z: Tensor, t: Tensor, condition: Condition) -> None:
        self.check_latents(z, t)
        self.conditions.check(condition, len(z))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile the transformer blocks, in place: a graph for each sort of them. The U-Net
        around them stays eager, so that hooks on its blocks are seen."""
        self.unet.compile_repeated_blocks(*args, **kwargs)

    # What it is made of --------------------------------------------------------------------------

    def tap_shape(self, tap: Tap) -> tuple[int, tuple[int, int]]:
        """(D, (rows, columns)) of the tokens at ``tap``, found by a pass without numbers.

        Raises:
            UserError: no such place, or its output is no map.
        """
        path = path_of(self.unet, tap)
        self._measure({tap: path})
        return self._shapes[path]

    @torch.no_grad()
    def _measure(self, paths: dict[Tap, str]) -> None:
        """Fills ``_shapes`` for the modules that are not in it yet."""
        new = [path for path in paths.values() if path not in self._shapes]
        if not new:
            return
        _, height, width = self.latent_shape
        length = height * width + 1  # more than a map has: no text is taken for one
        blank = {"text": torch.empty(1, length, self.conditions.width, device="meta")}
        if self.conditions.pooled is not None:
            blank["pooled"] = torch.empty(1, self.conditions.pooled, device="meta")
            blank["time_ids"] = torch.empty(1, TIME_IDS, device="meta")
        z = torch.empty(1, *self.latent_shape, device="meta")
        given = self._arguments(z, torch.zeros(1, device="meta"), blank)
        weights = {k: v.to("meta") for k, v in self.unet.state_dict().items()}
        modules: dict[Tap, torch.nn.Module] = {path: self.unet.get_submodule(path) for path in new}
        with torch.compiler.set_stance("force_eager"), tapped(modules) as seen:
            functional_call(self.unet, weights, (), given)
        for path in new:
            if path not in seen:
                raise UserError(f"{path} does not run in this network: choose a block")
            value = seen[path]
            width = value.shape[1] if value.ndim == 4 else value.shape[-1]
            self._shapes[path] = width, grid_of(value, self.latent_shape[1:], path)

    def parameter_counts(self) -> dict[str, int]:
        """Numbers in the U-Net itself (``unet``), in its LoRA (``lora``), and of both those that
        train (``trainable``) and do not (``frozen``)."""
        return parameter_counts(self.unet)

    def borrowed_state(self) -> dict[str, Tensor]:
        """The frozen U-Net; nothing of a network that trains whole. See
        `Backbone.borrowed_state`."""
        if self.config.adapt == "full":
            return {}
        state = {f"unet.{k}": v for k, v in self.unet.state_dict().items()}
        return {k: v for k, v in state.items() if not is_lora(k)}

    def export_lora(self, folder: Path | str) -> Path:
        """The LoRA as diffusers' pipelines load it. See
        `latentsmith.backbones.unet_lora.export_lora`."""
        return export_lora(self.unet, folder)


def parameter_counts(unet: Any) -> dict[str, int]:
    """See `SDUNet.parameter_counts`; of a U-Net on any device, ``meta`` too."""
    named = list(unet.named_parameters())
    lora = sum(p.numel() for name, p in named if is_lora(name))
    total = sum(p.numel() for _, p in named)
    trainable = sum(p.numel() for _, p in named if p.requires_grad)
    return {
        "unet": total - lora,
        "lora": lora,
        "trainable": trainable,
        "frozen": total - trainable,
    }


def _own_shape(unet: Any) -> tuple[int, int, int]:
    """(C, H, W) of the latents a U-Net was made for."""
    sides = unet.config.sample_size
    if sides is None:
        raise UserError("the U-Net does not say which latents it was made for: give latent_shape")
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return unet.config.in_channels, height, width
