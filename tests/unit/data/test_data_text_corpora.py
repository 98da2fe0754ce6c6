"""Where texts come from, and which of them train."""

import hashlib

import pytest

from latentsmith.data import debian
from latentsmith.data.text import CORPORA, wordnet
from latentsmith.data.text.base import distinct
from latentsmith.data.text.captions import CaptionsConfig
from latentsmith.data.text.file import FileConfig
from latentsmith.data.text.hf_dataset import HFTextsConfig
from latentsmith.data.text.split import Counts, assign
from latentsmith.data.text.tokens.words import WordSplitter
from latentsmith.data.text.wordnet import WordNetConfig, definitions
from latentsmith.errors import UserError

NOUNS = """  1 This software and database is being provided to you, the LICENSEE, by
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | That which is perceived (living or nonliving)
00002684 03 n 02 object 0 | a tangible entity; an entity that casts a shadow; "it was full of \
rackets"; "balls"
00004475 03 n 01 organism 0 | significant progress (as in "make strides"); "they made progress"
"""


@pytest.fixture
def files(monkeypatch, tmp_path):
    """A folder of four small files that count as WordNet's, and no other source."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in wordnet.SHA256:
        text = NOUNS if name == "data.noun" else f"1 | a gloss of {name}\n2 | shared by all\n"
        (folder / name).write_text(text)
        monkeypatch.setitem(wordnet.SHA256, name, hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(wordnet, "DEBIAN_FOLDER", tmp_path / "usr")
    monkeypatch.setattr(debian.shutil, "which", lambda tool: None)
    return folder


def test_definitions_stop_before_examples_and_skip_the_license():
    assert definitions(NOUNS) == [
        "That which is perceived (living or nonliving)",
        "a tangible entity; an entity that casts a shadow",
        'significant progress (as in "make strides")',
    ]


def test_wordnet_is_lower_case_and_each_text_once(files, tmp_path):
    corpus = WordNetConfig(folder=files).read(tmp_path / "cache")
    assert corpus.texts[0] == "that which is perceived (living or nonliving)"
    assert corpus.texts.count("shared by all") == 1 and corpus.lines == 3 + 3 * 2
    assert "Princeton" in corpus.licence and str(files) in corpus.origin


def test_wordnet_refuses_other_files(files, tmp_path):
    (files / "data.adv").write_text("1 | another\n")
    with pytest.raises(UserError, match=r"corpus.folder.*data.adv is not WordNet 3.0's.*SHA-256"):
        WordNetConfig(folder=files).read(tmp_path)


def test_wordnet_names_every_source_that_failed(files, tmp_path):
    with pytest.raises(UserError) as told:
        WordNetConfig().read(tmp_path / "cache")
    for part in ("earlier download", "installed package", "no apt-get", "apt-get install wordnet"):
        assert part in str(told.value)


def test_wordnet_keeps_what_it_downloaded(files, tmp_path, monkeypatch):
    def fake(package, work):
        target = work / "x" / wordnet.DEBIAN_FOLDER.relative_to("/")
        target.parent.mkdir(parents=True)
        files.rename(target)
        return "wordnet-base_3.0.deb", work / "x"

    monkeypatch.setattr(wordnet, "unpacked", fake)
    first = WordNetConfig().read(tmp_path / "cache")
    monkeypatch.setattr(wordnet, "unpacked", None)
    second = WordNetConfig().read(tmp_path / "cache")
    assert first.texts == second.texts and "wordnet-base_3.0.deb, downloaded" in second.origin


def test_a_damaged_download_is_not_used(files, tmp_path):
    kept = tmp_path / "cache" / "wordnet"
    kept.parent.mkdir()
    files.rename(kept)
    assert WordNetConfig().read(tmp_path / "cache").texts
    (kept / "data.verb").write_text("")
    with pytest.raises(UserError, match=r"an earlier download: .*data.verb is not WordNet"):
        WordNetConfig().read(tmp_path / "cache")


class TestDebian:
    def test_the_failing_command_is_quoted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(debian.shutil, "which", lambda tool: f"/usr/bin/{tool}")
        run = []

        def fail(command, **kwargs):
            run.append(command)
            return debian.subprocess.CompletedProcess(command, 100, "", "W: x\nE: no such package")

        monkeypatch.setattr(debian.subprocess, "run", fail)
        with pytest.raises(debian.DebianError, match=r"apt-get .* failed: E: no such package"):
            debian.unpacked("nothing", tmp_path)
        assert len(run) == 2  # the second time with package lists of its own
        assert any("Dir::State::lists" in word for word in run[1])

    def test_without_the_tools(self, tmp_path, monkeypatch):
        monkeypatch.setattr(debian.shutil, "which", lambda tool: None)
        with pytest.raises(debian.DebianError, match="no apt-get"):
            debian.unpacked("nothing", tmp_path)


def test_captions_are_a_small_closed_language(tmp_path):
    corpus = CaptionsConfig(scenes=3_000).read(tmp_path)
    words = {word for pieces in WordSplitter().split(corpus.texts) for word in pieces}
    assert 40 < len(words) < 60 and len(corpus.texts) == len(set(corpus.texts)) <= corpus.lines
    assert corpus.texts == CaptionsConfig(scenes=3_000).read(tmp_path).texts
    assert corpus.texts[:9] != CaptionsConfig(scenes=3_000, seed=1).read(tmp_path).texts[:9]


def test_full_captions_differ_from_mixed_ones(tmp_path):
    full, mixed = (
        CaptionsConfig(scenes=200, captions=kind).read(tmp_path).texts for kind in ("full", "mixed")
    )
    assert full != mixed and all(" a " in f" {text}" for text in full)


class TestFile:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.txt", "One  text\n\nanother\nOne text\n"),
            ("a.jsonl", '{"text": "One text"}\n\n{"text": "another"}\n{"text": "One text"}\n'),
            ("a.csv", 'id,text\n1,"One text"\n2,another\n3,One text\n'),
            ("a.tsv", "id\ttext\n1\tOne text\n2\tanother\n3\tOne text\n"),
        ],
    )
    def test_reads(self, tmp_path, name, content):
        (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8")
        assert FileConfig(file=tmp_path / name).read(tmp_path).texts == ["One text", "another"]
        lower = FileConfig(file=tmp_path / name, lower=True).read(tmp_path)
        assert lower.texts == ["one text", "another"]

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("a.jsonl", '{"text": "x"}\n{"test": "y"}\n', r"line 2: no field 'text'.*'test'"),
            ("a.jsonl", '{"text": "x"}\n{oops\n', r"line 2 is not JSON"),
            ("a.jsonl", '{"text": 3}\n', r"line 1: 'text' holds 3, which is no text"),
            ("a.jsonl", "[1]\n", r"line 1 holds no object"),
            ("a.csv", "id,words\n1,x\n", r"no field 'text'.*words"),
            ("a.csv", 'id,text\n1,"x\n', r"cannot read texts"),
            ("a.txt", "\n \n", r"holds no texts"),
        ],
    )
    def test_says_what_is_wrong(self, tmp_path, name, content, told):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=told):
            FileConfig(file=tmp_path / name).read(tmp_path)

    def test_missing_or_not_utf8(self, tmp_path):
        with pytest.raises(UserError, match=r"data.file="):
            FileConfig(file=tmp_path / "no.txt").read(tmp_path)
        (tmp_path / "latin.txt").write_bytes("Größe\n".encode("latin-1"))
        with pytest.raises(UserError, match="utf-8"):
            FileConfig(file=tmp_path / "latin.txt").read(tmp_path)


class TestHFDataset:
    @pytest.fixture
    def saved(self, tmp_path):
        from datasets import Dataset, DatasetDict

        rows = {"text": ["a b", "c d", "a  b"], "number": [1, 2, 3]}
        DatasetDict(train=Dataset.from_dict(rows)).save_to_disk(str(tmp_path / "d"))
        return tmp_path / "d"

    def test_reads(self, saved, tmp_path):
        assert HFTextsConfig(path=str(saved)).read(tmp_path).texts == ["a b", "c d"]

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"field": "texts"}, r"no column 'texts'.*'text'"),
            ({"field": "number"}, r"row 0 .* has no text in column 'number' but 1"),
            ({"split": "test"}, r"no split 'test'.*train"),
        ],
    )
    def test_says_what_is_wrong(self, saved, tmp_path, settings, told):
        with pytest.raises(UserError, match=told):
            HFTextsConfig(path=str(saved), **settings).read(tmp_path)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(UserError, match=r"does not exist"):
            HFTextsConfig(path=str(tmp_path / "none")).read(tmp_path)


def test_distinct_keeps_the_first_of_equal_texts():
    assert distinct(["B", "a\t b", "", "a b", "b"], lower=False) == ["B", "a b", "b"]
    assert distinct(["B", "b"], lower=True) == ["b"]


class TestSplit:
    def test_equal_texts_never_cross(self):
        texts = [f"text {i}" for i in range(100)]
        doubled = texts + [text.upper() for text in texts] + [f" {text}  " for text in texts]
        parts = assign(doubled, Counts(None, 10, 10), 0)
        assert parts[:100] == parts[100:200] == parts[200:]
        assert [parts[:100].count(part) for part in ("train", "val", "test")] == [80, 10, 10]

    def test_follows_from_text_and_seed_alone(self):
        texts = [f"text {i}" for i in range(60)]
        parts = dict(zip(texts, assign(texts, Counts(30, 10, 10), 0), strict=True))
        again = assign(texts[::-1], Counts(30, 10, 10), 0)
        assert parts == dict(zip(texts[::-1], again, strict=True))
        assert list(parts.values()).count(None) == 10
        assert list(parts.values()) != assign(texts, Counts(30, 10, 10), 1)

    def test_more_training_texts_leave_the_held_out_alone(self):
        texts = [f"text {i}" for i in range(60)]
        few, many = (assign(texts, Counts(n, 10, 10), 0) for n in (10, 40))
        held = [part if part != "train" else None for part in few]
        assert held == [part if part != "train" else None for part in many]

    def test_too_few(self):
        with pytest.raises(UserError, match=r"2 different texts are not enough.*test_count=1"):
            assign(["a", "b", "A"], Counts(1, 1, 1), 0)


@pytest.mark.parametrize("name", CORPORA.names())
def test_every_setting_has_help(name):
    from dataclasses import fields

    from latentsmith.config.fields import field_help

    config = CORPORA[name].config
    helps = field_help(config)
    assert not [f.name for f in fields(config) if f.name != "kind" and not helps.get(f.name)]
    assert 0 < len(CORPORA[name].help) <= 80


@pytest.mark.slow
def test_the_real_wordnet(tmp_path):
    """Counts of research note C, section 1.1. Needs the package or a network."""
    from latentsmith.data.text.tokens.wordpiece import WordPieceConfig
    from latentsmith.utils.cache import cache_root

    corpus = WordNetConfig().read(cache_root() / "data")
    tokens = WordPieceConfig()
    kept = sum(map(tokens.fits, tokens.splitter().split(corpus.texts)))
    assert (corpus.lines, len(corpus.texts), kept) == (117_659, 116_697, 111_040)
