"""What decides whether a scan backend can run, and what is said when it cannot."""

import sys

import pytest
import torch

from latentsmith.backbones.scan import ScanBackend, available, cpp_build, selective_scan, ssd_scan
from latentsmith.backbones.scan.backends import mamba_ssm
from latentsmith.errors import UserError

CPU = torch.device("cpu")


def small():
    """Arguments of the smallest S6 scan."""
    x, step, b = torch.randn(1, 3, 2), torch.rand(1, 3, 2), torch.randn(1, 3, 4)
    return x, step, -torch.ones(2, 4), b, b


def test_available_names_every_backend_with_reasons():
    found = {a.name: a for a in available("cpu")}
    assert sorted(found) == ["chunk", "cpp", "mamba_ssm", "reference"]
    assert found["chunk"].lacking == {} and found["reference"].lacking == {}
    assert "chunk" in found["cpp"].lacking["ssd"]
    assert set(found["mamba_ssm"].lacking) == {"selective", "ssd"}
    assert all(a.help for a in found.values())


def test_what_cannot_run_is_an_error_not_another_backend():
    with pytest.raises(UserError, match="'mamba_ssm' cannot run selective_scan on cpu: it needs a"):
        selective_scan(*small(), backend="mamba_ssm")
    x, b = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 4)
    with pytest.raises(UserError, match="'cpp' cannot run ssd_scan on cpu: it has S6 only"):
        ssd_scan(x, torch.rand(1, 3, 2), -torch.ones(2), b, b, backend="cpp")


def test_cpp_without_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no C\+\+ compiler found\. Install g\+\+"):
        selective_scan(*small(), backend="cpp")


def test_cpp_tells_what_the_compiler_said(monkeypatch, tmp_path):
    fake = tmp_path / "c++"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "no such flag" >&2; exit 1; }\n')
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    cpp_build.library.cache_clear()
    try:
        with pytest.raises(UserError, match=r"(?s)does not compile with .*no such flag"):
            selective_scan(*small(), backend="cpp")
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        cpp_build.library.cache_clear()


def with_kernel(monkeypatch, wrong):
    """Pretend the kernels run here: the reference, with outputs times 1 + ``wrong``."""

    def ssd(self, *inputs):
        y, state = mamba_ssm.ReferenceBackend().ssd(*inputs)
        return y * (1 + wrong), state

    monkeypatch.setattr(mamba_ssm.MambaSSMBackend, "ssd", ssd)
    monkeypatch.setattr(mamba_ssm.torch, "device", lambda *_: CPU)
    mamba_ssm._self_test.cache_clear()


@pytest.mark.parametrize("wrong", [0.0, 0.05, float("nan")])
def test_the_self_test_catches_a_wrong_kernel(monkeypatch, wrong):
    with_kernel(monkeypatch, wrong)
    found = mamba_ssm._self_test("ssd", 0)
    mamba_ssm._self_test.cache_clear()
    assert found is None if wrong == 0 else "self-test failed" in str(found)


def test_the_self_test_catches_a_kernel_that_does_not_run(monkeypatch):
    with_kernel(monkeypatch, 0.0)
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    found = mamba_ssm._self_test("selective", 0)
    mamba_ssm._self_test.cache_clear()
    assert found is not None and "does not run" in found
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in found


def test_limits_of_mamba_ssm_are_told():
    backend, t = mamba_ssm.MambaSSMBackend(), torch.zeros(1, 1, 1)
    with pytest.raises(UserError, match="S6 with rules other than euler: use backend 'chunk'"):
        backend.selective((), t, t, t, None, hold=True)
    with pytest.raises(UserError, match="S6 from an initial state"):
        backend.selective((), t, t, t, t, hold=False)
    with pytest.raises(UserError, match="cannot do float64"):
        backend.ssd(t, t.double(), t, t, t, None)
    state = mamba_ssm._NoGradient.apply(t.requires_grad_())
    with pytest.raises(UserError, match="a gradient through the state of S6"):
        state.sum().backward()


@pytest.mark.parametrize("scan", ["selective", "ssd"])
def test_on_a_gpu(scan, gpu):
    """chunk, and mamba_ssm where it is there, against the reference on the GPU."""
    device = gpu
    from latentsmith.backbones.scan.backends.chunk import ChunkBackend
    from latentsmith.backbones.scan.backends.reference import ReferenceBackend

    backends: list[ScanBackend] = [ChunkBackend()]
    if mamba_ssm.MambaSSMBackend().lacking(device, scan) is None:
        backends.append(mamba_ssm.MambaSSMBackend())
    truth = mamba_ssm._answers(ReferenceBackend(), scan, device)
    for backend in backends:
        for a, b in zip(mamba_ssm._answers(backend, scan, device), truth, strict=True):
            assert mamba_ssm._distance(a, b) < 1e-2
