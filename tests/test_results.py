import pytest

from idarts_nni.report import COLUMNS
from idarts_nni.results import merge_results, read_results, results_markdown, update_readme

from .test_report import failed, record

README = """# Title

<!-- results:small -->
<!-- /results -->

Text between, `<!-- results:not_at_a_line_start -->`.

<!-- results:large -->
old table
<!-- /results -->
End.
"""


@pytest.fixture
def folder(tmp_path):
    merge_results(tmp_path / "small.csv", [record(seed=1), record(seed=2, validation=104.0), failed("darts")])
    merge_results(tmp_path / "large.csv", [record("lstm")])
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def test_results_file_has_exactly_the_promised_columns_and_keeps_the_gap(folder):
    lines = (folder / "small.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "small,ptb,idarts,1,sum,1,100,98,1000,3,12.3457,cpu,fp32,abc1234,2026-01-02T03:04:05,,,full,"
    assert lines[3] == "small,ptb,darts,2,mean,9,,,,,,,,,,,,full,"


def test_only_retrained_results_go_in(tmp_path):
    assert merge_results(tmp_path / "a.csv", [record(stage="search"), record(stage="select"), record()]) == 1


def test_adding_twice_adds_nothing(folder):
    before = (folder / "small.csv").read_bytes()
    assert merge_results(folder / "small.csv", [record(seed=1)]) == 3
    assert (folder / "small.csv").read_bytes() == before


def test_two_equal_rows_of_one_run_both_count(tmp_path):
    assert merge_results(tmp_path / "a.csv", [record(), record()]) == 2


def test_new_rows_are_added_and_replace_drops_the_old(folder):
    assert merge_results(folder / "small.csv", [record(seed=3)]) == 4
    assert merge_results(folder / "small.csv", [record(seed=3)], replace=True) == 1


def test_other_columns_are_an_error_that_names_the_file(tmp_path):
    (tmp_path / "a.csv").write_text("method,validation\nidarts,1\n")
    with pytest.raises(ValueError, match="a.csv: columns method, validation; expected experiment"):
        read_results(tmp_path / "a.csv")


def test_table_says_when_where_and_from_which_commit(folder):
    text = results_markdown(folder / "small.csv")
    assert "102.00 ± 2.83" in text and "1 (1 failed)" in text
    for fact in ("2026-01-02", "cpu", "fp32", "abc1234", "`small.csv`"):
        assert fact in text


def test_readme_is_renewed_between_its_markers_and_nowhere_else(folder):
    readme = folder / "README.md"
    assert update_readme(readme, folder) == ["small", "large"]
    text = readme.read_text()
    assert text.startswith("# Title\n\n<!-- results:small -->\n\n| method")
    assert "old table" not in text and text.endswith("<!-- /results -->\nEnd.\n")
    assert "Text between, `<!-- results:not_at_a_line_start -->`." in text
    assert update_readme(readme, folder) == []
    assert readme.read_text() == text


def test_check_writes_nothing(folder):
    assert update_readme(folder / "README.md", folder, check=True) == ["small", "large"]
    assert (folder / "README.md").read_text() == README


def test_stale_table_is_noticed_when_the_results_change(folder):
    update_readme(folder / "README.md", folder)
    merge_results(folder / "large.csv", [record("lstm", seed=2)])
    assert update_readme(folder / "README.md", folder, check=True) == ["large"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("<!-- results:gone -->\n<!-- /results -->\n", "gone.csv, and there is no such file"),
        ("<!-- results:small -->\n", "is not closed"),
        ("<!-- results:small -->\n<!-- results:large -->\n<!-- /results -->\n", "small --> is not closed"),
    ],
    ids=["file", "end", "nested"],
)
def test_broken_marker_is_an_error(folder, text, words):
    (folder / "README.md").write_text(text)
    with pytest.raises(ValueError, match=words):
        update_readme(folder / "README.md", folder)
    assert (folder / "README.md").read_text() == text
