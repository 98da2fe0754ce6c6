"""Who makes which shard, among processes that share a disk."""

import json
import os
import time

from latentsmith.stores import leases as module
from latentsmith.stores.leases import EXPIRED, Leases


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    one, two = Leases(tmp_path, alone=False), Leases(tmp_path, alone=False)
    assert one.take(3) and not two.take(3) and not one.take(3)
    assert two.take(4)
    one.release(3)
    assert two.take(3)
    two.close()
    assert not list(tmp_path.iterdir())


def test_a_lease_nobody_renews_is_anybodys(tmp_path):
    dead, alive = Leases(tmp_path, alone=False), Leases(tmp_path, alone=False)
    assert dead.take(0) and not alive.take(0)
    past = time.time() - EXPIRED - 5
    os.utime(tmp_path / "shard-00000.taken", (past, past))
    assert alive.take(0)
    assert not Leases(tmp_path, alone=False).take(0)


def test_the_lease_of_a_process_known_to_be_dead_is_anybodys_at_once(tmp_path):
    Leases(tmp_path, alone=False).take(0)
    file = tmp_path / "shard-00000.taken"
    signed = json.loads(file.read_text())
    file.write_text(json.dumps(signed | {"pid": 2**22 + 7, "host": "elsewhere"}))
    assert not Leases(tmp_path, alone=False).take(0), "of other machines nothing is known"
    file.write_text(json.dumps(signed | {"pid": 2**22 + 7}))
    assert Leases(tmp_path, alone=False).take(0)


def test_a_lease_from_the_future_is_void(tmp_path):
    """The disk's clock was set back, and whoever held it has not renewed since."""
    Leases(tmp_path, alone=False).take(0)
    future = time.time() + EXPIRED + 60
    os.utime(tmp_path / "shard-00000.taken", (future, future))
    assert Leases(tmp_path, alone=False).take(0)


def test_a_sign_of_life_keeps_it(tmp_path, monkeypatch):
    busy = Leases(tmp_path, alone=False)
    busy.take(0)
    past = time.time() - EXPIRED - 5
    os.utime(tmp_path / "shard-00000.taken", (past, past))
    busy.renew()  # too soon to say so again
    assert (tmp_path / "shard-00000.taken").stat().st_mtime < time.time() - EXPIRED
    monkeypatch.setattr(module, "RENEW", 0.0)
    busy.renew()
    assert not Leases(tmp_path, alone=False).take(0)


def test_clocks_of_machines_do_not_matter(tmp_path, monkeypatch):
    Leases(tmp_path, alone=False).take(0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)
    assert not Leases(tmp_path, alone=False).take(0)


def test_a_single_writer_needs_no_files(tmp_path):
    own = Leases(tmp_path, alone=True)
    assert own.take(0) and own.take(0)
    own.renew()
    own.release(0)
    assert not list(tmp_path.iterdir())
