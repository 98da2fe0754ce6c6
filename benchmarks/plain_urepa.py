"""U-REPA's training step written the plain way: diffusers' U-Net, peft, a forward hook, the losses
and the moving average as the source document prints them.

What `urepa_step.py` measures against.
"""

import io
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class AlignedUNet(nn.Module):
    """U-Net, LoRA, hook on the middle block, AlignHead."""

    def __init__(self, folder: str, dim: int, grid: int, scope: str):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from peft import LoraConfig

        super().__init__()
        self.unet: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        self.unet.requires_grad_(False)
        targets: Any = ATTENTION
        if scope == "mid":
            targets = rf"mid_block\..*({'|'.join(ATTENTION)})"
        self.unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=targets))
        width = self.unet.config.block_out_channels[-1]
        self.head = nn.Sequential(
            nn.Conv2d(width, dim, 1), nn.GELU(), nn.Conv2d(dim, dim, 1, bias=False)
        )
        self.grid, self.features = grid, {}
        self.unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.features["mid"] = output

    def forward(self, z: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, 4, H, W], steps [B], text [B, L, E] → noise, tokens [B, grid², dim]."""
        noise = self.unet(z, t, text).sample
        tokens = self.head(self.features["mid"])
        tokens = F.interpolate(tokens, size=(self.grid, self.grid), mode="bilinear")
        return noise, F.normalize(tokens.flatten(2).transpose(1, 2), dim=-1)


def token_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (1.0 - (F.normalize(pred, dim=-1) * F.normalize(target, dim=-1)).sum(dim=-1)).mean()


def manifold_loss(pred: Tensor, target: Tensor) -> Tensor:
    pred = F.normalize(pred.mean(dim=1), dim=-1)
    target = F.normalize(target.mean(dim=1), dim=-1)
    diff = pred @ pred.T - target @ target.T
    diff = diff - torch.diag_embed(torch.diagonal(diff))
    mask = torch.triu(torch.ones_like(diff), diagonal=1)
    return ((diff * mask) ** 2).sum() / mask.sum()


class PlainURepa:
    """The training script.

    Args:
        folder: of a pipeline.
        texts: [classes + 1, L, E], the empty prompt last.
        dim, grid: of the teacher.
        scope: ``mid`` or ``all_attention``.
        traced: let the input require a gradient, as gradient checkpointing of the reentrant sort
            asks for.
    """

    def __init__(
        self, folder: str, texts: Tensor, *, dim: int, grid: int, scope: str, traced: bool
    ):
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self.model = AlignedUNet(folder, dim, grid, scope).to(texts.device).train()
        self.ema = deepcopy(self.model).requires_grad_(False)
        self.texts, self.traced = texts, traced
        self.scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        head = list(self.model.head.parameters())
        lora = [p for n, p in self.model.named_parameters() if "lora" in n]
        self.optimizer = torch.optim.AdamW(
            [{"params": lora, "weight_decay": 0.0}, {"params": head, "weight_decay": 0.01}],
            lr=1e-4, betas=(0.9, 0.999), eps=1e-8,
        )  # fmt: skip

    def trained(self) -> list[nn.Parameter]:
        """LoRA in the network's order, then the head."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def draw(self, latent: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, steps and texts of a batch."""
        noise = torch.randn_like(latent)
        t = torch.randint(0, 1000, (len(latent),), device=latent.device)
        dropped = torch.rand(len(label), device=label.device) < 0.1
        text = self.texts[torch.where(dropped, len(self.texts) - 1, label)]
        return noise, t, text

    def loss_of(
        self, latent: Tensor, teacher: Tensor, noise: Tensor, t: Tensor, text: Tensor
    ) -> Tensor:
        """L_diff + 0.5 (L_token + 3 L_manifold)."""
        z = self.scheduler.add_noise(latent, noise, t)
        if self.traced:
            z.requires_grad_(True)
        pred, tokens = self.model(z, t, text)
        aligned = token_loss(tokens.float(), teacher) + 3.0 * manifold_loss(tokens.float(), teacher)
        return F.mse_loss(pred.float(), noise) + 0.5 * aligned

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Of one batch with fresh noise."""
        latent, teacher = batch["latent"].float(), batch["teacher/tokens"].float()
        return self.loss_of(latent, teacher, *self.draw(latent, batch["label"]))

    def step(self, batch: dict[str, Tensor]) -> float:
        """Forward, backward, clipping, AdamW, moving average; the loss for the log."""
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for average, param in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                average.mul_(0.9995).add_(param.data, alpha=1 - 0.9995)
        return loss.item()

    def state_bytes(self) -> dict[str, int]:
        """Of the moving average, the optimizer, and a checkpoint with all the script puts in."""
        file = io.BytesIO()
        whole = {
            "model_state_dict": self.model.state_dict(),
            "ema_state_dict": self.ema.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
        }
        torch.save(whole, file)
        return {
            "average": sum(p.nbytes for p in self.ema.parameters()),
            "optimizer": sum(
                v.nbytes for state in self.optimizer.state.values() for v in state.values()
            ),
            "checkpoint": file.tell(),
        }
