"""What trials on other machines send is written to where the records of this machine's trials lie, and nowhere else."""

import io
import json
import sqlite3
import tarfile
from contextlib import closing

import pytest

from idarts_nni.experiment import Snapshot, Trial, trial_folder
from idarts_nni.remote import _unpack
from idarts_nni.returned import bring_back, machines_of, unpack_records

SERVICE = {"platform": "remote", "machineList": [{"host": "gpu1.example.org", "user": "alice", "port": 2222}]}


@pytest.fixture
def folder(tmp_path):
    """An experiment's folder with NNI's database: two trials, of which one sent its record twice."""
    (tmp_path / "db").mkdir()
    with closing(sqlite3.connect(tmp_path / "db" / "nni.sqlite")) as database:
        database.execute("create table TrialJobEvent (trialJobId text, environmentId text, timestamp integer)")
        database.execute("create table MetricData (timestamp integer, trialJobId text, type text, data text)")
        database.execute("create table ExperimentProfile (params text, revision integer)")
        database.executemany(
            "insert into TrialJobEvent values (?, ?, 1)",
            [("aaaaa", None), ("aaaaa", "remote-worker1"), ("bbbbb", "remote-worker2"), ("../x", "../..")],
        )
        database.execute("insert into ExperimentProfile values (?, 1)", [json.dumps({"trainingService": SERVICE})])
        sent = [("aaaaa", '{"key": 1}'), ("aaaaa", '{"key": 2}'), ("bbbbb", "[1]"), ("../x", '{"key": 3}')]
        for number, (trial, text) in enumerate(sent):
            data = json.dumps(json.dumps({"default": 1.0, "record": text}))
            database.execute("insert into MetricData values (?, ?, 'PERIODICAL', ?)", (number, trial, data))
        database.commit()
    return tmp_path


def test_the_last_record_of_a_trial_is_written_and_what_is_none_is_not(folder):
    (path,) = unpack_records(folder)
    assert path == trial_folder(folder, "aaaaa") / "record.json"
    assert path.parent == folder / "environments" / "remote-worker1" / "trials" / "aaaaa"
    assert json.loads(path.read_text()) == {"key": 2}
    assert unpack_records(folder) == []  # a second look finds nothing new


def test_trials_are_found_where_their_records_have_come(folder):
    trial = Trial("aaaaa", 0, {}, "SUCCEEDED", {"default": 1.0}, 1, 1.0, 1.0, folder / "trials" / "aaaaa")
    snapshot, problems = bring_back(folder, "exp", Snapshot("DONE", trials=(trial,)), ())
    assert snapshot.trials[0].folder.joinpath("record.json").is_file() and not problems


def test_the_database_tells_the_machines(folder):
    (machine,) = machines_of(folder)
    assert str(machine) == "alice@gpu1.example.org:2222"
    with pytest.raises(ValueError, match="no folder of an NNI experiment"):
        machines_of(folder / "db")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-it", "a/../../outside"])
def test_files_of_another_machine_stay_within_the_folder(tmp_path, name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    stream.seek(0)
    target = tmp_path / "a" / "b"
    target.mkdir(parents=True)
    try:
        _unpack(stream, target)
    except tarfile.TarError:
        pass
    found = {path for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert all(path.is_relative_to(target) and not path.is_symlink() for path in found)
