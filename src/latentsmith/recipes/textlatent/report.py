"""Both directions beside what needs no model, and whether the cycles helped."""

from collections.abc import Sequence
from pathlib import Path

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.metrics.base import Measurement
from latentsmith.metrics.card import LatentCard, joint_difference
from latentsmith.metrics.card_file import load_card
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.measure import load_examples
from latentsmith.recipes.textlatent.measure_model import SEARCHED
from latentsmith.recipes.textlatent.yardstick import READ_AGAIN
from latentsmith.reports.console import publish
from latentsmith.reports.content import Cell, Figure, Flag, Report, Section, Table, Target
from latentsmith.reports.glossary import label
from latentsmith.reports.numbers import number_text
from latentsmith.reports.plots import curves, training_curves
from latentsmith.reports.verdicts import above, above_baseline
from latentsmith.training.trackers import read_metrics

MODEL = "model"
"""The measured arm's name in reports; where it has cycles, ``base`` is `WITHOUT`."""
WITHOUT = "model without cycles"
NAMES = {
    "constant": "constant: commonest token of each position, mean latent",
    "nearest": "nearest training text",
    "linear": "tokens linear in the latent",
    "ridge": "latent linear in the bag of tokens",
    "start": "latent linear in the bag of all tokens: the linear path before training",
    "autoregressive": "decoder of equal size, token after token",
    "one_shot": "decoder of equal size, all at once",
}
EXACT, COSINE = 0.8, 0.97
"""What captions, which are nearly linear, must reach."""
COMPARED = (
    "content_accuracy_1", "text_nll", "latent_use", "text_exact", "text_token_f1",
    f"latent_cosine_{READ_AGAIN}", "latent_cosine", "retrieval_at_1", "latent_mse",
    "text_exact_t2l2t", "latent_cosine_l2t2l", "noise_area_f1",
)  # fmt: skip
"""What the model without cycles is compared in."""

Cards = dict[str, LatentCard]


def write(cfg: TextLatentRecipe, run: Run) -> Path:
    """Write ``report.html`` and ``report.json`` of a measured run and print the verdict; returns
    the page."""
    names = run.summary("measure")["methods"]
    cards = {name: load_card(run.path / "measurements" / name) for name in names}
    return publish(build(cfg, run, cards), run.path)


def named(cfg: TextLatentRecipe, method: str) -> str:
    """A method's name in tables."""
    if method == cfg.arms[-1]:
        return MODEL
    return NAMES.get(method, WITHOUT)


def build(cfg: TextLatentRecipe, run: Run, cards: Cards) -> Report:
    """The report's content from every method's card."""
    model = cards[cfg.arms[-1]]
    corpus = run.summary("corpus")
    sections = [
        _writing(cfg, cards),
        _reading(cfg, cards),
        _prediction(cfg, cards),
        _effort(cfg, model),
        _trips(cfg, cards),
        _drawn(cfg, cards),
        _cycles(cfg, cards),
        _examples(cfg, run),
        _training(cfg, run),
    ]
    counts = corpus["counts"]
    return Report(
        title="Text and latent: one model of both directions",
        subtitle=f"{corpus['name']}: {counts['train']:,} training and {counts['test']:,} test "
        f"texts, latents of {_encoder(cfg)}",
        lead=_lead(model),
        targets=targets(cfg, cards),
        sections=[section for section in sections if section is not None],
        measurements={named(cfg, name): list(c) for name, c in cards.items()},
        config=to_dict(cfg),
        manifest=run.manifest,
        run=str(run.path),
    )


def _encoder(cfg: TextLatentRecipe) -> str:
    return cfg.text_encoder.kind if cfg.imported is None else cfg.imported.encoder


def _lead(card: LatentCard) -> str:
    told = []
    for name, text in (
        ("text_exact", "{:.1%} of test texts are written exactly from their latents"),
        (f"latent_cosine_{READ_AGAIN}", "read again they have a cosine of {:.3f}"),
        ("latent_cosine", "latents of test texts have a cosine of {:.3f}"),
        ("retrieval_at_1", "and {:.1%} of them are nearest to their own"),
    ):
        m = card.get(name)
        if m is not None:
            told.append(text.format(m.value))
    return "; ".join(told) + "." if told else "Not everything could be measured."


# Targets ------------------------------------------------------------------------------------------


def targets(cfg: TextLatentRecipe, cards: Cards) -> list[Target]:
    """Captions against numbers, since a linear map nearly does; other texts against the methods
    that need no model."""
    model = cards[cfg.arms[-1]]
    if cfg.data.kind == "captions" and cfg.imported is None:
        return [
            *_beats(
                cfg, cards, "linear", "content_accuracy_1", "L2T: content beyond the linear map"
            ),
            above(model.get("text_exact"), EXACT, name="L2T: exact texts", by="value"),
            above(model.get("latent_cosine"), COSINE, name="T2L: cosine", by="value"),
        ]
    again, f1 = f"latent_cosine_{READ_AGAIN}", "text_token_f1"
    searched = model.get(f"{f1}_{SEARCHED}") is not None
    way, by = (SEARCHED, "L2T by search") if searched else ("", "L2T")
    nearer = f"{by}: read again, nearer than the nearest text"
    more = f"{by}: token F1 beyond the nearest text's"
    return [
        *_beats(cfg, cards, "nearest", again, nearer, _joined(again, way)),
        *_beats(cfg, cards, "nearest", f1, more, _joined(f1, way)),
        *_beats(cfg, cards, "ridge", "retrieval_at_1", "T2L: R@1 beyond the ridge's"),
        above(model.get("latent_use"), 0.0, name="L2T: nats that the latent saves"),
    ]


def _beats(
    cfg: TextLatentRecipe, cards: Cards, other: str, key: str, name: str, ours: str | None = None
) -> list[Target]:
    """One target, where the other method was measured; ``ours``: the model's name of ``key``."""
    if other not in cards:
        return []
    model, mine = cards[cfg.arms[-1]], ours or key
    difference = joint_difference(model, cards[other], mine, key)
    found = model.get(mine), cards[other].get(key)
    return [above_baseline(*found, name=name, difference=difference)]


# Sections -----------------------------------------------------------------------------------------


def _table(cfg: TextLatentRecipe, cards: Cards, names: Sequence[str], caption: str) -> Table:
    """One row for each method, one column for each measurement that any method has."""
    known = [n for n in names if any(card.get(n) is not None for card in cards.values())]
    rows: list[list[Cell]] = [
        [named(cfg, method), *(card.get(name) for name in known)]
        for method, card in cards.items()
        if any(card.get(name) is not None for name in known)
    ]
    return Table(["method", *(_head(cards, n) for n in known)], rows, caption)


def _head(cards: Cards, name: str) -> str:
    found = (card.get(name) for card in cards.values())
    return label(next(m for m in found if m is not None))


def _arms(cfg: TextLatentRecipe, cards: Cards) -> Cards:
    return {name: cards[name] for name in cfg.arms}


def _writing(cfg: TextLatentRecipe, cards: Cards) -> Section:
    again = [f"latent_cosine_{READ_AGAIN}", f"retrieval_at_1_{READ_AGAIN}"]
    overlap = ["text_exact", "text_token_f1", "text_bleu", "text_rouge_l", "text_length_error"]
    text = (
        "Texts written for the latents of test texts. Only content tokens count. “Reembedded”: the "
        "real encoder reads the written text again, and its latent is compared with the one the "
        "text was written for. Cosine alone is no proof: the nearest training text has a high one, "
        "and is never the right text."
    )
    missing = next(
        (c.not_measured.get(again[0]) for c in cards.values() if again[0] in c.not_measured), None
    )
    if missing:
        text += f" Not read again: {missing}."
    return Section(
        "Latent to text", text, [_table(cfg, cards, [*overlap, *again], "Written texts.")]
    )


def _reading(cfg: TextLatentRecipe, cards: Cards) -> Section:
    metrics = ["latent_cosine", "retrieval_at_1", "latent_mse", "latent_norm_ratio", "latent_r2"]
    kind = cfg.evaluate.sampler.kind
    names = [*metrics, *(f"{m}_{kind}" for m in metrics[:3])]
    text = (
        "Latents predicted for test texts: cosine and R@1 as the encoder gives latents, squared "
        "error per dimension and length normalized. In one step from pure noise, since a frozen "
        f"encoder's latent of a text is a point; and by {kind}."
    )
    return Section("Text to latent", text, [_table(cfg, cards, names, "Predicted latents.")])


def _prediction(cfg: TextLatentRecipe, cards: Cards) -> Section:
    names = [f"{m}_{s}" for m in ("content_accuracy", "eos_accuracy") for s in ("1", "0.5", "0.15")]
    text = (
        "Guesses of hidden tokens, at the share of tokens that is hidden: three different "
        "questions. Padding and EOS never count as content. NLL: nats per token of content and "
        "first EOS, for the model an upper bound, and what the text's own latent saves against "
        "another text's: 0 means that latents are not looked at."
    )
    items: list[Table | Figure] = [
        _table(cfg, cards, names, "Accuracy by share of hidden tokens."),
        _table(cfg, cards, ["text_nll", "latent_use"], "Likelihood."),
    ]
    return Section("Prediction and likelihood", text, items)


def _effort(cfg: TextLatentRecipe, card: LatentCard) -> Section:
    e = cfg.evaluate
    metrics = ["text_exact", "text_token_f1", "text_bleu", f"latent_cosine_{READ_AGAIN}"]
    labels = {f"steps_{s}": f"{s} steps" for s in e.steps}
    labels[""] = f"{e.decode.steps} steps"
    best = f"best_of_{e.candidates}"
    labels |= {"same_texts": f"{e.decode.steps} steps, the texts of the rows below"}
    labels |= {"one_drawn": "one draw", best: f"best of {e.candidates}, reranked by its own T2L"}
    labels[SEARCHED] = f"{e.rounds} rounds of search from there"
    rows: list[list[Cell]] = []
    heads: list[str] = []
    for suffix, text in labels.items():
        found = [card.get(_joined(m, suffix)) for m in metrics]
        if any(m is not None for m in found):
            first = next(m for m in found if m is not None)
            rows.append([text, first.stamp.detail.get("nfe"), first.stamp.count, *found])
        heads = heads or [m.name if m else "" for m in found]
    columns = ["written in", "looks", "texts", *("exact", "token F1", "BLEU", "cosine, reembedded")]
    text = (
        "More steps, and more candidates of which the model's own other direction picks the one "
        "that it reads back as nearest: no encoder is asked."
    )
    answer = _gain(card, best)
    return Section("Steps and candidates", f"{text} {answer}", [Table(columns, rows, "By effort.")])


def _joined(metric: str, suffix: str) -> str:
    """``latent_cosine_reembedded`` with ``steps_1`` → ``latent_cosine_steps_1_reembedded``."""
    if not suffix:
        return metric
    if metric.endswith(READ_AGAIN):
        return f"{metric.removesuffix(READ_AGAIN)}{suffix}_{READ_AGAIN}"
    return f"{metric}_{suffix}"


def _gain(card: LatentCard, best: str) -> str:
    """Whether the best of N is better than one draw, and than the likeliest text."""
    told = []
    one = f"text_exact_{best}"
    for other, name in (("one_drawn", "one draw"), ("same_texts", "the likeliest text")):
        base = card.get(f"text_exact_{other}") or (
            card.get("text_exact") if other == "same_texts" else None
        )
        found = card.get(one)
        if found is None or base is None:
            continue
        told.append(f"{found.value - base.value:+.1%} exact texts against {name}")
    return f"The best of N has {', '.join(told)}." if told else ""


def _trips(cfg: TextLatentRecipe, cards: Cards) -> Section:
    names = [
        "text_exact_t2l2t", "text_token_f1_t2l2t", "latent_cosine_l2t2l",
        f"latent_cosine_{READ_AGAIN}", "noise_area_f1", f"noise_area_cosine_{READ_AGAIN}",
    ]  # fmt: skip
    arms = _arms(cfg, cards)
    items: list[Table | Figure] = [_table(cfg, arms, names, "Round trips, and robustness.")]
    panels = {}
    for key, title in (
        ("noise_area_f1", "token F1"),
        (f"noise_area_cosine_{READ_AGAIN}", "cosine"),
    ):
        lines = {
            named(cfg, arm): tuple(card.figures[key].tolist())
            for arm, card in arms.items()
            if key in card.figures
        }
        if lines:
            panels[title] = lines
    if panels:
        caption = "Quality of written texts over noise on their latents."
        items.append(curves(panels, caption=caption, x_label="noise deviation"))
    text = (
        "t2l2t: text, latent, text by the model alone. l2t2l: latent, text, latent by the model "
        "alone, which can be blind to its own faults; beside it the same by the real encoder. "
        "Noise area: mean quality over noise on the (normalized) latents."
    )
    return Section("Round trips and robustness", text, items)


def _drawn(cfg: TextLatentRecipe, cards: Cards) -> Section | None:
    names = [
        f"{m}_{way}"
        for way in ("sequential", "joint", "test")
        for m in ("sliced_w2", "fd", "drawn_agreement", "text_distinct_2", "text_memorized")
    ]
    arms = _arms(cfg, cards)
    if not any(card.get(names[0]) for card in arms.values()):
        return None
    rows: list[list[Cell]] = []
    for arm, card in arms.items():
        for name in names:
            m = card.get(name)
            if m is not None:
                rows.append([named(cfg, arm), label(m), m, m.baseline])
    text = (
        "Pairs drawn from noise: the latent first and then its text (sequential), or both "
        "together (joint). Distances of latents from the test's, beside what real latents of this "
        "number get; repetition of words and four-token runs of training texts, beside the test "
        "texts' own; agreement: cosine of the drawn latent and the real encoder's of its text."
    )
    heads = ["model", "measurement", "value", "real latents get"]
    return Section("Pairs from noise", text, [Table(heads, rows, "Unconditional samples.")])


def _cycles(cfg: TextLatentRecipe, cards: Cards) -> Section | None:
    """The model with cycles against the one without, on the same texts."""
    if len(cfg.arms) < 2:
        return None
    with_, without = cards["cycles"], cards["base"]
    rows: list[list[Cell]] = []
    flags: dict[tuple[int, int], Flag] = {}
    for name in COMPARED:
        new, old = with_.get(name), without.get(name)
        if new is None or old is None:
            continue
        interval = joint_difference(with_, without, name)
        verdict = _verdict(interval, new)
        if verdict in ("better", "worse"):
            flags[len(rows), 5] = "go" if verdict == "better" else "no-go"
        shown = "" if interval is None else "[{}, {}]".format(*map(number_text, interval))
        rows.append([label(new), old, new, number_text(new.value - old.value), shown, verdict])
    heads = ["measurement", "without", "with", "difference", "95 % interval", "verdict"]
    text = (
        f"Terms: {', '.join(cfg.terms)}. Same start, data order and noise; the interval is over "
        "test texts and not over trainings, so another seed may move it more: "
        "`latentsmith sweep textlatent preset=ablations` trains several, beside controls of equal "
        "compute and equal noise. “No gain” is a result."
    )
    return Section("Did the cycles help?", text, [Table(heads, rows, "Paired.", flags=flags)])


def _verdict(interval: tuple[float, float] | None, m: Measurement) -> str:
    if interval is None or m.higher_is_better is None:
        return ""
    low, high = interval if m.higher_is_better else (-interval[1], -interval[0])
    return "better" if low > 0 else "worse" if high < 0 else "no gain"


def _examples(cfg: TextLatentRecipe, run: Run) -> Section:
    found = load_examples(run)
    texts = found.pop("text")
    shown = [m for m in found if m not in ("constant", "one_shot", "linear")]
    rows: list[list[Cell]] = [[text, *(found[m][i] for m in shown)] for i, text in enumerate(texts)]
    heads = ["test text", *(_example_name(cfg, m) for m in shown)]
    return Section("Texts", "", [Table(heads, rows, "The first test texts, not chosen.")])


def _example_name(cfg: TextLatentRecipe, method: str) -> str:
    arm, _, rest = method.partition(", ")
    return f"{named(cfg, arm)}, {rest}" if rest else named(cfg, arm)


def _training(cfg: TextLatentRecipe, run: Run) -> Section | None:
    """What trained and what it cost."""
    logs, rows = {}, list[list[Cell]]()
    for stage in (*cfg.arms, *cfg.baselines.trained):
        if not run.stage_done(stage):
            continue
        summary = run.summary(stage)
        name = named(cfg, stage)
        logs[name] = read_metrics(Path(summary["training"]) / "metrics.jsonl", summary["samples"])
        count = sum(summary["parameters"].values())
        forwards = summary["parts"].get("text_latent/forwards")
        rows.append([name, count, summary["samples"], summary["seconds"], forwards])
    if not rows:
        return None
    figure = training_curves(logs, caption="Training and validation (fixed batch and noise).")
    heads = ["network", "parameters", "samples", "seconds", "looks a sample, at the end"]
    return Section("Training and cost", "", [*([figure] if figure else []), Table(heads, rows, "")])
