"""Settings of the recipe urepa at the size of a test, on the pipelines of `helpers.tiny_sd`."""

SMALL = [
    "data=shapes", "data.train_count=192", "data.val_count=96", "data.resolution=32",
    "transform.resolution=32", "train.samples=64", "train.batch_size=16", "train.precision=fp32",
    "train.compile=false", "train.warmup=0", "train.lr=1e-3", "train.ema=0.9",
    "train.validate_every=32", "train.save_every=32", "train.log_every=16", "evaluate.count=64",
    "evaluate.probe_count=96", "evaluate.generated=64", "evaluate.times=[0.2]",
    "evaluate.resamples=20", "evaluate.batch_size=32", "evaluate.sampler.steps=3",
    "evaluate.clip=null",
]  # fmt: skip
