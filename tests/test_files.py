import itertools
import re
import threading

import pytest

from idarts_nni.files import MAX_BYTES, parse_yaml, read_yaml, write_atomically


def test_json_is_read_as_well(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2]}')
    assert read_yaml(path) == {"a": [1, 2]}


def test_numbers_of_json_stay_numbers(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"small": 1e-06, "large": 1E9}')
    assert read_yaml(path) == {"small": 1e-06, "large": 1e9}


@pytest.mark.parametrize(
    "content, words",
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1\n- 2", "expected a mapping of keys to values, found list"),
        (b"", "found NoneType"),
        (b"a: \xff\xfe", "not UTF-8 text"),
        (b"a: 2026-13-45", "not valid YAML"),
        (b"a: " + b"[" * 5000, "not valid YAML"),
        (b"a: !!python/object/apply:os.system ['echo no']", "not valid YAML"),
        (b"a: " + b" " * MAX_BYTES, "bytes; such a file has at most"),
    ],
    ids=["open bracket", "list", "empty", "latin", "date", "deep", "object", "large"],
)
def test_unusable_file_is_an_error_that_names_the_file(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        read_yaml(tmp_path / "gone.yaml")


def test_text_names_its_origin():
    with pytest.raises(ValueError, match="^the parameters: expected a mapping"):
        parse_yaml("3", "the parameters")


def test_atomic_write_makes_folders_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    write_atomically(path, "ä")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_reader_never_meets_a_part_of_a_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "a" * 100_000)
    stop, lengths = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            lengths.add((len(text := path.read_text()), len(set(text))))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in "bcdefgh" * 3:
        write_atomically(path, letter * 100_000)
    stop.set()
    reader.join()
    assert lengths == {(100_000, 1)}


BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefghijk")
)
"""A few lines that stand for three thousand million values."""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "not valid YAML: more than 200,000 values, aliases written out"),
        ("a: &a [*a]", "a value holds itself through an alias"),
        ("a: " + "[" * 100 + "]" * 100, "nested more than 64 levels deep"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested more than 64 levels deep"),
        ("a: 0x" + "f" * 100, "a whole number has 400 bits, at most 64"),
        ("a: " + "1:" * 300 + "1", "a number has 601 characters"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!bool perhaps", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ('{"a": "\\ud800"}', "a text holds half a character"),
    ],
)
def test_text_that_no_reader_could_work_with_is_refused(text, reason):
    with pytest.raises(ValueError, match=f"^here: .*{re.escape(reason)}"):
        parse_yaml(text, "here")


def test_aliases_that_stand_for_little_are_read():
    assert parse_yaml("a: &a {k: 1}\nb: {<<: *a, l: 2}\nc: [*a, *a]", "here")["b"] == {"k": 1, "l": 2}
