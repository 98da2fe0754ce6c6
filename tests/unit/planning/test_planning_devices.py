"""GPUs by name, the user's own, and the least time operators take."""

import pytest

from latentsmith.errors import UserError
from latentsmith.planning.devices import GPUS, Device, device_named


def test_known_changed_and_own():
    assert device_named("h100") is not None and device_named("h100") == GPUS["H100"]
    assert device_named("H100,memory=94").memory == 94
    own = device_named("bf16=400,fp32=50,memory=96,bandwidth=4000")
    assert (own.peak("bf16"), own.peak("fp16"), own.peak("fp32")) == (4e14, 4e14, 5e13)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("H1000", "no such GPU. Did you mean 'H100'"),
        ("", "no such GPU"),
        ("bf16=400", "lacks fp32, memory, bandwidth"),
        ("H100,memory=much", "'much' is no number"),
        ("H100,memery=90", "Did you mean 'memory'"),
        ("H100,memory=-1", "lacks memory"),
    ],
)
def test_mistakes(text, says):
    with pytest.raises(UserError, match=says):
        device_named(text)


def test_an_operator_waits_for_the_slower_of_work_and_memory():
    device = Device("d", bf16=1.0, fp32=0.1, memory=1, bandwidth=1.0)  # 1e12 FLOP/s, 1e9 B/s
    assert device.floor([(2e12, 1e9), (0, 3e9)], "bf16") == pytest.approx(2 + 3)
    assert device.floor([(2e12, 1e9)], "fp32") == pytest.approx(20)


def test_every_gpu_is_plausible():
    for device in GPUS.values():
        assert device.bf16 > device.fp32 > 0 and device.room > 0.85 * device.memory * 1e9
