"""Names of rows: found, told apart, and named when they are not there."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.stores import keys
from latentsmith.stores.keys import KeyTable, listed

NAMES = ["b/2.png", "a", "ä", "🙂 smile", "10", "1", "a ", "aa", "line\nbreak"]


def test_a_table_is_a_sequence_of_its_names():
    table = KeyTable.of(NAMES)
    assert list(table) == NAMES and len(table) == 9
    assert [table[i] for i in range(9)] == NAMES and table[-1] == NAMES[-1]
    assert table[2:7:2] == NAMES[2:7:2] and table[::-1] == NAMES[::-1]
    assert table == NAMES and table != NAMES[:-1] and table != [*NAMES[:-1], "x"]
    assert table == KeyTable.of(NAMES) and table != "a"
    assert [table.find(n) for n in NAMES] == list(range(9))
    assert [table.index(n) for n in NAMES] == list(range(9))
    assert "aa" in table and "aaa" not in table and 3 not in table
    for row in (9, -10):
        with pytest.raises(IndexError):
            table[row]
    with pytest.raises(ValueError, match="'x' is no key"):
        table.index("x")


def test_arrays_make_the_same_table_and_the_digest_is_of_names_and_order():
    table = KeyTable.of(NAMES)
    assert KeyTable(table.arrays) == NAMES
    assert table.digest() == KeyTable.of(NAMES).digest()
    assert table.digest() != KeyTable.of(NAMES[::-1]).digest()
    assert KeyTable.of(["ab", "c"]).digest() != KeyTable.of(["a", "bc"]).digest()


def test_names_whose_hashes_collide_are_told_apart(monkeypatch):
    monkeypatch.setattr(keys, "_hash", lambda name: len(name) % 2)
    table = KeyTable.of(NAMES)
    assert [table.find(n) for n in NAMES] == list(range(9))
    assert table.find("zz") is None and table.find("z") is None


def test_hashes_of_both_signs_are_found():
    names = [str(i) for i in range(500)]
    table = KeyTable.of(names)
    hashes = table.arrays["hashes"]
    assert hashes[0] < 0 < hashes[-1] and (hashes.diff() > 0).all()
    assert table.rows(names, "store").tolist() == list(range(500))


def test_absent_names_are_listed():
    table = KeyTable.of(NAMES)
    with pytest.raises(UserError, match="the store has no sample 'c', 'd'"):
        table.rows(["a", "c", "1", "d"], "the store")
    with pytest.raises(UserError, match="'5', '6' and 3 more"):
        table.rows([str(i) for i in range(2, 10)], "the store")
    assert listed(["a"]) == "'a'"


def test_an_empty_table():
    table = KeyTable.of([])
    assert len(table) == 0 and list(table) == [] and table.find("a") is None
    assert table.rows([], "store").dtype == torch.int64


def test_twice_and_empty_are_refused():
    with pytest.raises(UserError, match=r"2 keys occur more than once, e\.g\. 'a', 'b'"):
        KeyTable.of(["a", "b", "a", "c", "b"])
    with pytest.raises(UserError, match="the key of row 2 is empty"):
        KeyTable.of(["a", "b", ""])
