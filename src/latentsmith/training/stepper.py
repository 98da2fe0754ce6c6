"""One objective being optimised."""

import torch
from torch import Tensor

from latentsmith.training.config import TrainConfig
from latentsmith.training.optim import adamw, clip_gradients, learning_rate, set_lr
from latentsmith.training.task import Objective


class Stepper:
    """An objective with its AdamW and, in fp16, its own loss scaler."""

    def __init__(self, objective: Objective, cfg: TrainConfig, device: torch.device):
        self.name = objective.name
        self.params = list(objective.params)
        self.starts_at = objective.starts_at
        self.lr_scale = objective.lr_scale
        self.optimizer = adamw(self.params, cfg, objective.undecayed, objective.slower)
        self.scaler = torch.amp.GradScaler(device.type) if cfg.precision == "fp16" else None
        self._cfg = cfg

    def lr(self, samples: int) -> float:
        """Learning rate of the step that begins after ``samples`` samples."""
        return self.lr_scale * learning_rate(samples, self._cfg, starts_at=self.starts_at)

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add d ``loss`` to the gradients (times the scale, in fp16)."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()

    def clip(self) -> Tensor:
        """Undo the scaling, clip; returns the gradient's norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        return clip_gradients(self.params, self._cfg.clip)

    def finish(self, samples: int, *, skip: bool) -> None:
        """Step the optimiser unless ``skip``; let the scaler learn from this step either way."""
        if not skip:
            set_lr(self.optimizer, self.lr(samples))
            if self.scaler is not None:
                self.scaler.step(self.optimizer)
            else:
                self.optimizer.step()
        if self.scaler is not None:
            self.scaler.update()

    def overflow_is_normal(self) -> bool:
        """In fp16 a gradient overflows now and then while the scaler looks for its scale. Once the
        scale is down to 1 an infinite gradient is the loss's own."""
        return self.scaler is not None and self.scaler.get_scale() > 1.0

    def without_gradient(self, names: dict[Tensor, str]) -> list[str]:
        """Parameters the last backward pass did not reach."""
        return [names[p] for p in self.params if p.grad is None]
