"""ZIPs written in pieces: valid, and whole or absent wherever a writer is killed."""

import os
import random
import shutil
import subprocess
import zlib
from pathlib import Path
from zipfile import ZipFile

import pytest

from latentsmith.data.zip_csv import records
from latentsmith.data.zip_csv.growing import GrowingZip, journal_file, partial_file
from latentsmith.data.zip_csv.records import Member, directory

NAMES = [f"n{k:04d}.jpg" for k in range(20)] + ['ordner/größe, "eins".jpg']


def content(k):
    return random.Random(k).randbytes(50 + 37 * k)


def pairs():
    """Notes and contents; every seventh sample is unreadable."""
    for k, name in enumerate(NAMES):
        if k % 7 == 3:
            yield {"id": str(k), "reason": "broken\nfile"}, None
        else:
            yield {"id": str(k), "name": name, "caption": "ein Käfer"}, content(k)


def write(path, most=1000, batch=4):
    """Go on with a ZIP for at most so many batches; whether it is finished."""
    with GrowingZip(path) as growing:
        todo = list(pairs())[growing.count :]
        for first in range(0, min(len(todo), most * batch), batch):
            notes, contents = zip(*todo[first : first + batch], strict=True)
            growing.append(notes, contents)
        if growing.count < len(NAMES):
            return False
        growing.finish()
        return True


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole.zip")
    return (tmp_path / "whole.zip").read_bytes()


def test_it_is_a_zip(tmp_path, whole):
    with ZipFile(tmp_path / "whole.zip") as archive:
        assert archive.testzip() is None
        expected = {n["name"]: c for n, c in pairs() if c is not None}
        assert {name: archive.read(name) for name in archive.namelist()} == expected
        assert {info.compress_type for info in archive.infolist()} == {0}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.zip"]


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip")
def test_others_can_read_it(tmp_path, whole):
    done = subprocess.run(["unzip", "-t", tmp_path / "whole.zip"], capture_output=True, text=True)
    assert done.returncode == 0 and "No errors" in done.stdout, done.stdout + done.stderr


def test_notes_are_what_was_given_and_sizes(tmp_path):
    path = tmp_path / "a.zip"
    write(path, most=2)
    with GrowingZip(path) as growing:
        assert growing.count == 8
        for found, (note, data) in zip(growing.notes(), pairs(), strict=False):
            known = {} if data is None else {"size": len(data), "crc": zlib.crc32(data)}
            assert found == note | known


@pytest.mark.parametrize("batch", [1, 5, 21])
def test_bytes_do_not_depend_on_batches_nor_on_stops(tmp_path, whole, batch):
    path = tmp_path / "b.zip"
    while not write(path, most=1, batch=batch):
        assert not path.exists()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("seed", range(40))
def test_cut_anywhere_after_what_is_safe_it_goes_on(tmp_path, whole, seed):
    """After a crash the partial file ends anywhere behind its last safe member, with anything in
    it, and the journal in the middle of a line or of what was to be one."""
    rng = random.Random(seed)
    path = tmp_path / "c.zip"
    write(path, most=rng.randint(0, 5))
    data, lines = partial_file(path), journal_file(path)
    kept = lines.read_bytes()
    garbage = rng.choice([b"", rng.randbytes(rng.randint(1, 500)), whole[: rng.randint(1, 900)]])
    with data.open("ab") as file:
        file.write(garbage)
    torn = rng.choice([b"", b'{"id": "7", "name"', b"\0" * 30, b"[]\n", b"\xff\n", b"{}"])
    with lines.open("ab") as file:
        file.write(torn)
    with GrowingZip(path) as growing:
        assert growing.count == kept.count(b"\n")
    assert lines.read_bytes() == kept
    assert write(path) and path.read_bytes() == whole


def test_a_journal_that_tells_of_lost_bytes_is_believed_only_so_far(tmp_path, whole):
    path = tmp_path / "d.zip"
    write(path, most=3)
    os.truncate(partial_file(path), 700)
    with GrowingZip(path) as growing:
        assert 0 < growing.count < 12 and growing.size <= 700
    assert write(path) and path.read_bytes() == whole


def test_bytes_are_on_disk_before_the_journal_tells_of_them(tmp_path, monkeypatch):
    path, seen = tmp_path / "o.zip", []
    with GrowingZip(path) as growing:
        sync = os.fsync

        def watched(fd):
            sync(fd)
            data = os.fstat(fd).st_ino == partial_file(path).stat().st_ino
            sizes = partial_file(path).stat().st_size, journal_file(path).stat().st_size
            seen.append((data, *sizes))

        monkeypatch.setattr(os, "fsync", watched)
        growing.append([{"name": "a"}], [b"abc"])
        size, lines = growing.size, journal_file(path).stat().st_size
    assert seen == [(True, size, 0), (False, size, lines)] and lines > 0


@pytest.mark.parametrize("step", ["directory", "rename", "journal"])
def test_killed_while_finishing(tmp_path, whole, step, monkeypatch):
    path = tmp_path / "e.zip"

    class Killed(BaseException):
        pass

    def die(*args):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "directory":
            patch.setattr(
                "latentsmith.data.zip_csv.growing.directory",
                lambda members: (
                    part if k < 4 else die() for k, part in enumerate(directory(members))
                ),
            )
        else:
            patch.setattr(Path, "replace" if step == "rename" else "unlink", die)
        write(path)
    if step == "journal":  # its name is there: it is whole
        assert path.read_bytes() == whole and journal_file(path).exists()
    else:
        assert not path.exists() and write(path) and path.read_bytes() == whole


def test_more_members_than_a_plain_zip_counts(tmp_path):
    members = [Member(f"{k}", 1, zlib.crc32(b"x")) for k in range(66_000)]
    path = tmp_path / "many.zip"
    with path.open("wb") as file:
        for member in members:
            file.write(member.header() + b"x")
        file.writelines(directory(members))
    with ZipFile(path) as archive:
        assert len(archive.namelist()) == 66_000 and archive.read("65999") == b"x"
    # Python's reader does not look at the count, others do
    end = path.read_bytes()[-records.END.size - records.LOCATOR64.size - records.END64.size :]
    signature, *_, here, count, _, _ = records.END64.unpack_from(end)
    assert signature == b"PK\6\6" and here == count == 66_000


def test_members_behind_four_gigabytes(tmp_path):
    """A hole in the file stands for a large member."""
    crc = zlib.crc32(b"abc")
    large = Member("large", records.MOST_BYTES - 1, 0)
    members = [large, Member("small", 3, crc), Member("last", 3, crc)]
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.write(large.header())
        file.seek(large.size, os.SEEK_CUR)
        for member in members[1:]:
            file.write(member.header() + b"abc")
        file.writelines(directory(members))
    with ZipFile(path) as archive:
        assert archive.getinfo("last").header_offset > records.MOST_BYTES
        assert archive.read("small") == archive.read("last") == b"abc"
        assert len(archive.namelist()) == 3
