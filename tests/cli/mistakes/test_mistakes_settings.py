"""Words and settings that cannot work: told before anything is made."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.mistakes import Mistake, check, everything, refused
from latentsmith.config.compose import compose
from latentsmith.errors import UserError

SMOKE = "run mmreg scale=smoke"
MISTAKES = [
    Mistake("no such verb", "trian mmreg", "no verb 'trian'. Did you mean 'train'"),
    Mistake("no recipe", "run", r"required: RECIPE\nusage: latentsmith run"),
    Mistake("a mistyped recipe", "run mmrg", "no recipe 'mmrg'. Did you mean 'mmreg'"),
    Mistake("a setting with dashes", f"{SMOKE} --lr 3", "written key=value without dashes: lr="),
    Mistake("a word that is no setting", f"{SMOKE} fast", "written key=value: fast=VALUE"),
    Mistake("a mistyped scale", "run mmreg scale=smok", "no such scale. Did you mean 'smoke'"),
    Mistake(
        "a mistyped setting", f"{SMOKE} pretrain.lrr=3", "no such setting. Did you mean pretrain.lr"
    ),
    Mistake("a setting of another kind", f"{SMOKE} data.mode=gray", "not of data=shapes"),
    Mistake("a mistyped encoder", f"{SMOKE} encoder=dinov3", "Did you mean 'dinov2'"),
    Mistake(
        "a negative learning rate",
        f"{SMOKE} pretrain.lr=-0.1",
        r"pretrain.lr: should be greater than 0 \(got -0.1\)",
    ),
    Mistake("an infinite learning rate", f"{SMOKE} pretrain.lr=inf", "should be a finite number"),
    Mistake("no number", f"{SMOKE} pretrain.lr=nan", "pretrain.lr: should be"),
    Mistake("a word for a number", f"{SMOKE} pretrain.lr=fast", "should be a number .got 'fast'"),
    Mistake("half a sample", f"{SMOKE} pretrain.batch_size=1.5", "should be a whole number"),
    Mistake("an empty batch", f"{SMOKE} pretrain.batch_size=0", "should be greater than 0"),
    Mistake(
        "one sample and a loss over pairs",
        f"{SMOKE} finetune.batch_size=1",
        "finetune.batch_size is 1, and a loss over pairs needs at least 2 samples",
    ),
    Mistake(
        "a batch larger than the training",
        f"{SMOKE} pretrain.batch_size=1000",
        "pretrain: samples 64 is less than one batch of 1000: raise samples or lower batch_size",
    ),
    Mistake(
        "a micro-batch that does not divide the batch",
        f"{SMOKE} pretrain.micro_batch=5",
        "batch_size 16 is no multiple of micro_batch 5: use micro_batch=4",
    ),
    Mistake("several values in one run", f"{SMOKE} seed=1,2", "Use 'latentsmith sweep'"),
    Mistake("no several values in a sweep", "sweep mmreg scale=smoke", "nothing to sweep over"),
    Mistake("a part of a sweep there is not", "sweep mmreg seed=0,1 --part 3/2", "with 1 ≤ I ≤ N"),
    Mistake(
        "one bad value in a sweep",
        "sweep mmreg scale=smoke pretrain.lr=1,-1",
        r"should be greater than 0 \(got -1\)",
    ),
    Mistake("a quote left open", f"{SMOKE} 'seed=\"3'", "cannot read this value"),
    Mistake("a stage there is not", f"{SMOKE} --until mesure", "Did you mean 'measure'"),
    Mistake("a stage not named", "train mmreg scale=smoke", "which stage. Write mmreg.STAGE"),
    Mistake("a stage mistyped", "train mmreg.pretran", "Did you mean 'pretrain'"),
    Mistake(
        "images too small for the autoencoder",
        f"{SMOKE} transform.resolution=15",
        "resolution 15 does not suit this autoencoder.*use 14 or 16",
    ),
    Mistake("images of no size", f"{SMOKE} transform.resolution=0", "greater than or equal to 1"),
    Mistake(
        "gray images for a colour autoencoder",
        f"{SMOKE} transform.channels=1",
        "transform.channels is 1 but autoencoder.in_channels is 3: set both to the same",
    ),
    Mistake(
        "widths the group norms do not divide",
        f"{SMOKE} autoencoder.norm_num_groups=3",
        "must be multiples of norm_num_groups 3",
    ),
    Mistake("an unknown thing to list", "list encodrs", "Did you mean 'encoders'"),
    Mistake("settings of what", "list settings", "latentsmith list settings RECIPE"),
    Mistake("needs of an unknown recipe", "doctor mmrg", "Did you mean 'mmreg'"),
    Mistake("no images", "sample by_class count=0", r"count: should be greater than or equal to 1"),
    Mistake("no steps", "sample by_class sampler.steps=0", "greater than or equal to 1"),
    Mistake("a mistyped sampler", "sample by_class sampler=eulr", "Did you mean 'euler'"),
    Mistake("a class there is not", "sample by_class labels=[z]", "labels: no class 'z'"),
    Mistake(
        "a prompt for a generator of classes",
        "sample by_class --prompt cat",
        "trained on classes and not on texts.*give no prompts",
    ),
    Mistake("a generator of texts without a text", "sample by_text", "got none: give prompts"),
    Mistake(
        "strength beyond all",
        "variation by_class --image photos/00.png --strength 1.4",
        "strength: should be less than or equal to 1",
    ),
    Mistake(
        "an edit by what was not trained on edits",
        "edit by_class --image photos/00.png --instruction x",
        "not trained on edits: use variation or inpaint",
    ),
    Mistake("no seed", "invert translator --latents z.npy --seed -1", "a seed is between 0 and"),
    Mistake(
        "a seed beyond all",
        f"encode translator --texts texts.txt --out z.npy --seed {10**30}",
        "a seed is between 0 and",
    ),
    Mistake(
        "no candidates", "invert translator --latents z.npy --candidates 0", "--candidates 0: at"
    ),
    Mistake(
        "cold beyond freezing",
        "invert translator --latents z.npy --temperature -1",
        "--temperature -1.0: should be greater than or equal to 0",
    ),
    Mistake(
        "a grid of no points",
        "reconstruct fields --points stations.npz --resolution 0 --out o.npz",
        "resolution 0 does not fit",
    ),
    Mistake(
        "a grid larger than any machine",
        "reconstruct fields --points stations.npz --resolution 10000000 --out o.npz",
        r"more memory is needed than this machine has \(.* GB at once\): give a smaller size",
    ),
    Mistake(
        "a copy of no size",
        "data prepare image_folder folder=photos --out copy --resolution 0",
        "--resolution 0: a side in pixels is between 1 and 16,384",
    ),
    Mistake(
        "a copy larger than any machine",
        "data prepare image_folder folder=photos --out copy --resolution 100000000",
        "--resolution 100000000: a side in pixels is between 1 and 16,384",
    ),
    Mistake(
        "a share of everything",
        "data inspect image_folder folder=photos val_fraction=1",
        "val_fraction: should be less than 1",
    ),
    Mistake(
        "a share of nothing",
        "data inspect image_folder folder=photos val_fraction=0.001",
        "24 samples with val_fraction=0.001 leave one split empty",
    ),
    Mistake(
        "a variable of the shell's",
        f"{SMOKE} 'seed=${{oc.env:HOME}}'",
        r"\$\{oc.env:…\} calls a function, and settings are only data",
    ),
    Mistake(
        "a choice by a variable of the shell's",
        "run mmreg 'scale=${oc.env:USER}'",
        "calls a function, and settings are only data",
    ),
    Mistake("a setting that is not there", f"{SMOKE} 'seed=${{nothing}}'", "'nothing' not found"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_settings(mistake, place, capsys):
    check(mistake, capsys)


FIELDS = ["seed", "scale", "pretrain.lr", "pretrain.batch_size", "loss.weight", "encoder", "data"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SHARED = [HealthCheck.function_scoped_fixture]
"""Nothing of the working folder changes between examples."""


@settings(max_examples=25, deadline=None, database=None)
@given(
    words=st.lists(st.builds("{}={}".format, st.sampled_from(FIELDS) | TEXTS, TEXTS), max_size=2)
)
def test_whatever_words_say_is_a_setting_or_a_sentence(words):
    with contextlib.suppress(UserError):
        compose("mmreg", ["scale=smoke", *words])


NUMBERS = st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf"), -0.0])


@settings(max_examples=10, deadline=None, database=None, suppress_health_check=SHARED)
@given(key=st.sampled_from(["pretrain.lr", "finetune.lr"]), value=NUMBERS)
def test_no_learning_rate_but_a_positive_number(place, capsys, key, value):
    before = everything()
    assert f"{key}: should be" in refused(["run", "mmreg", "scale=smoke", f"{key}={value}"], capsys)
    assert everything() == before
