"""All samples on a map of a latent space."""

import importlib.util
from typing import Any, cast

from torch import Tensor

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, facts, scatter
from latentsmith.explore.form import Choice, Control
from latentsmith.explore.projection import Projection, distance_error, project, turned
from latentsmith.explore.tab import Tab, has_samples, own_reference, references_of

CLASS, ERROR, NOTHING = "class", "distance error", "nothing"
LATENTS = "latents"


class Map(Tab):
    """A point for each sample."""

    title = "Map"
    help = (
        "Each point is a held-out sample, where the latent space puts it. Point at one to see it; "
        "click to take it along to the other tabs (the one before becomes the second of a path)."
    )
    place = 10
    live = True

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any with latents."""
        return has_samples(bench, arm)

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Which space, projected how, coloured by what."""
        references = references_of(bench, arms)
        colours = [CLASS] if bench.samples.labels else []
        colours += [ERROR] if references else []
        kinds = ["PCA", *(["UMAP"] if importlib.util.find_spec("umap") else [])]
        found: list[Control] = [
            Choice(name="space", label="Points of", options=[LATENTS, *references], value=LATENTS),
            Choice(
                name="kind", label="Projection", options=kinds, value="PCA",
                help="Turned to lie as the reference's own does, never stretched."
                + " The first UMAP takes half a minute, to compile itself." * (len(kinds) > 1),
            ),
            Choice(name="colour", label="Colour", options=[*colours, NOTHING],
                   value=[*colours, NOTHING][0]),
        ]  # fmt: skip
        if references:
            found.append(
                Choice(
                    name="reference", label="Reference space", options=references,
                    value=references[0], help="Whose distances are the right ones.",
                )
            )  # fmt: skip
        return found

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """The map, and how large the error is on the whole."""
        kind, reference = cast("Projection", given["kind"].lower()), given.get("reference")
        space = given["space"]
        own = bench.latents(arm) if space == LATENTS else self._of(bench, arm, space)
        points = project(own, kind)
        if reference is not None and space != reference:
            points = turned(points, project(self._of(bench, arm, reference), kind))
        if given["colour"] == CLASS:
            labels, names = bench.samples.labels, bench.samples.classes
            return [scatter(points, labels, colour="classes", names=names)]
        if given["colour"] == NOTHING:
            return [scatter(points, [], colour="classes")]
        error = distance_error(own, self._of(bench, arm, str(reference)))
        axis = f"distance error against {reference}"
        told = facts({"mean error": f"{float(error.mean()):.3f}", "worst": f"{error.max():.3f}"})
        values = [round(e, 4) for e in error.tolist()]
        return [scatter(points, values, colour="scale", axis=axis), told]

    @staticmethod
    def _of(bench: Bench, arm: Arm, name: str) -> Tensor:
        return bench.reference(arm, own_reference(bench, arm, name))


TAB = Map()
