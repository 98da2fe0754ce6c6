"""Images from an arm's generator, as its run would make them."""

from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.form import Control, Number, Text
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.edit import EditGuidanceConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.labels import labels_of
from latentsmith.sampling.samplers import SamplerConfig
from latentsmith.sampling.samplers.heun import HeunConfig

ANY_CLASS = "all in turn"


def draws(config: Any, count: int, most: int = 16) -> list[Control]:
    """Controls of every drawing: steps, how many images, which seed."""
    return [
        Number(name="steps", label="Steps", least=1, most=250, value=steps_of(config)),
        Number(name="count", label="Images", least=1, most=most, value=count),
        Number(name="seed", label="Seed", least=0, most=2**31, value=0),
    ]


def words(bench: Bench, arms: list[Arm]) -> list[Control]:
    """A prompt that may be left empty, where one of the generators reads any."""
    if not any(reads_texts(bench.generator(arm)) for arm in arms):
        return []
    return [Text(name="prompt", label="Prompt", lines=2, help="May be left empty.")]


def guidance_towards(prompt: str, config: Any) -> GuidanceConfig:
    """The run's own guidance; none where nothing is said."""
    return guidance_of(config, scale_of(config)) if prompt else NoGuidanceConfig()


def sampler_of(config: Any, steps: int | None = None) -> SamplerConfig:
    """The run's own sampler (Heun where its settings name none), with another number of steps
    where it counts them."""
    sampler = getattr(_says_how(config), "sampler", None) or HeunConfig()
    if steps is None or not hasattr(sampler, "steps"):
        return sampler
    return replace(sampler, steps=steps)


def steps_of(config: Any) -> int:
    """Steps of the run's own sampler; 20 where it takes as many as it needs."""
    return int(getattr(sampler_of(config), "steps", 20))


def guidance_of(config: Any, scale: float | None = None) -> GuidanceConfig:
    """The run's own guidance, with another scale; a scale for one without is classifier-free
    guidance, and 1 is none."""
    own = getattr(_says_how(config), "guidance", None) or NoGuidanceConfig()
    if scale is None:
        return own
    if scale == 1:
        return NoGuidanceConfig()
    return replace(own, scale=scale) if hasattr(own, "scale") else CfgConfig(scale=scale)


def scale_of(config: Any) -> float:
    """Scale of the run's own guidance; 1 without one."""
    return float(getattr(guidance_of(config), "scale", 1.0))


def edit_guidance_of(config: Any) -> EditGuidanceConfig:
    """The run's own guidance of edits; the defaults where its settings name none."""
    own = getattr(_says_how(config), "edit_guidance", None)
    return own if isinstance(own, EditGuidanceConfig) else EditGuidanceConfig()


def _says_how(config: Any) -> Any:
    """The part of a recipe's settings that says how its images are made; None: no part does."""
    parts = [config, *(v for v in vars(config).values() if is_dataclass(v))]
    return next((p for p in parts if hasattr(p, "sampler") and hasattr(p, "guidance")), None)


def reads_texts(generator: LatentGenerator) -> bool:
    """Whether it can be told in words what to make."""
    return "text" in generator.backbone.takes and generator.info.text_encoder is not None


def told(generator: LatentGenerator, prompt: str, label: str, count: int) -> dict[str, Any]:
    """``labels`` or ``condition`` of ``count`` images for the samplers; {} where nothing is said.

    Raises:
        UserError: no such class, or words for a generator that reads none.
    """
    if prompt:
        said = generator.prompt([prompt])
        return {"condition": {n: v.expand(count, *v.shape[1:]) for n, v in said.items()}}
    if label and label != ANY_CLASS:
        return {"labels": labels_of(torch.arange(count), [label], generator.info.classes)}
    return {}


def generate(
    bench: Bench, arm: Arm, prompts: list[str], label: str, *,
    count: int, steps: int, scale: float, seed: int,
) -> Tensor:  # fmt: skip
    """Images [P * count, C, H, W]: ``count`` of each prompt where the generator reads texts, else
    ``count`` of the class. Number i of each starts from the same noise.

    Raises:
        UserError: no generator, a class it does not know, or no prompt for one that reads texts.
    """
    generator, config = bench.generator(arm), arm.run.config
    if not reads_texts(generator):
        prompts = []
    elif not prompts:
        raise UserError("this generator reads texts: write a prompt, one a line")
    how: dict[str, Any] = {"sampler": sampler_of(config, steps), "seed": seed}
    conditioned = bool(generator.backbone.takes)
    how["guidance"] = guidance_of(config, scale) if conditioned else NoGuidanceConfig()
    made = []
    for prompt in prompts or [""]:
        say = told(generator, prompt, label, count)
        made.append(generator.sample(torch.arange(count), **say, **how))
    return torch.cat(made)
