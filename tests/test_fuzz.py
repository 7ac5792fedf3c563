"""Some spoilt inputs for every reader; ``make fuzz`` reads 100,000, most of them guided by coverage."""

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from idarts_nni.space import CellSpace
from tests.fuzz.documents import inputs
from tests.fuzz.judge import empty_folder, judge
from tests.fuzz.readers import READERS, Reader, seeds

SLOW = ("experiment", "record")
names = [reader.name for reader in READERS]


@pytest.mark.parametrize("reader", READERS, ids=names)
def test_a_valid_input_is_accepted(reader):
    with empty_folder() as folder:
        assert judge(reader, seeds(reader)[0], Path(folder)).kind == "accepted"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=names)
def test_a_spoilt_input_gives_a_result_or_an_error_of_ours(reader):
    seen = set()

    @settings(
        max_examples=60 if reader.name in SLOW else 300,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=inputs(reader))
    def read(data):
        with empty_folder() as folder:
            verdict = judge(reader, data, Path(folder))
        seen.add(verdict.kind)
        assert verdict.kind != "foreign", verdict.reason

    read()
    assert "refused" in seen or reader.name == "feature cache"  # which computes anew what it cannot use


def check_fits(name):
    return CellSpace(2, (name,))


class Command:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda data, folder: pickle.loads(pickle.dumps(Command())), "did os.system"),
        (lambda data, folder: (folder.parent / "elsewhere.txt").write_text("x"), "did write to"),
        (lambda data, folder: {}["key"], "KeyError"),
        (lambda data, folder: check_fits("x"), "does not name input.yaml"),
        (lambda data, folder: data.decode(), "UnicodeDecodeError"),
        (lambda data, folder: bytearray(1 << 60), "MemoryError"),
    ],
)
def test_what_must_not_happen_is_noticed(read, reason, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    verdict = judge(Reader("planted", read, (), names="input.yaml"), b"\xff", folder)
    assert verdict.kind == "foreign" and reason in verdict.reason
