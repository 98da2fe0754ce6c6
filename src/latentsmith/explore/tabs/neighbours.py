"""What lies nearest to a sample: in latents, and in a reference space."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, facts, picks
from latentsmith.explore.form import Choice, Control, Number, Sample
from latentsmith.explore.neighbours import nearest_to
from latentsmith.explore.tab import Tab, has_samples, image_of, own_reference, references_of


class Neighbours(Tab):
    """Two rows: latent neighbours over reference neighbours."""

    title = "Neighbours"
    help = (
        "The samples nearest to one, in latents and in a reference space. Framed: near in both. "
        "The numbers are distances, as shares of the mean distance."
    )
    place = 20
    live = True

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any with latents and something to compare them with."""
        return has_samples(bench, arm) and bool(bench.references(arm))

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Of what, how many, compared with which space."""
        references, total = references_of(bench, arms), len(bench.samples)
        images = bench.kind == "images"
        return [
            Sample(name="sample", label="Of", count=total, uploads=images),
            Choice(name="reference", label="Reference space", options=references,
                   value=references[0]),
            Number(name="count", label="Neighbours", least=1, most=min(32, total - 1),
                   value=min(8, total - 1)),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """Both rows, and how many they have in common."""
        picked, count = given["sample"], given["count"]
        name = own_reference(bench, arm, given["reference"])
        latents, reference = bench.latents(arm), bench.reference(arm, name)
        number = picked.number
        if number is None:
            image = image_of(bench, arm, picked)[None]
            z, r = bench.encode(arm, image)[0], bench.locate(arm, name, image)[0]
        else:
            z, r = latents[number], reference[number]
        near, far = nearest_to(z, latents, count, without=number)
        other, off = nearest_to(r, reference, count, without=number)
        both = sorted(set(near) & set(other))
        return [
            picks(near, [f"{d:.2f}" for d in far], both, title="In latents"),
            picks(other, [f"{d:.2f}" for d in off], both, title=f"In {name}"),
            facts({"in both": f"{len(both)} of {count}"}),
        ]


TAB = Neighbours()
