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
