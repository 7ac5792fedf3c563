import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from idarts_nni.cli import build_parser, command_function, main
from idarts_nni.results import merge_results

from .test_report import record

ROOT = Path(__file__).resolve().parents[1]
CELLS = ROOT / "search_spaces" / "architectures"


class Run:
    """``idarts run`` in a process of its own, with a HOME of its own."""

    def __init__(self, folder: Path, *options: str, **class_args) -> None:
        self.folder = folder
        self.file = folder / "experiment.yaml"
        settings = {"methods": ["idarts", "lstm"], "data": "embedded", "poll": 0.5, **class_args}
        content = {
            "experimentName": "recording",
            "searchSpaceFile": str(ROOT / "search_spaces" / "tiny.yaml"),
            "trialCodeDirectory": str(ROOT),
            "trialCommand": "python -m tests.recording_trial",
            "trialConcurrency": 2,
            "experimentWorkingDirectory": str(folder / "experiments"),
            "tuner": {
                "className": "idarts_nni.tuner.SearchThenRetrain",
                "codeDirectory": str(ROOT),
                "classArgs": settings,
            },
            "trainingService": {"platform": "local"},
        }
        self.file.write_text(yaml.safe_dump(content))
        # Tests are left out of what NNI copies; the trial finds them here.
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("NNI_", "IDARTS_"))}
        self.said = folder / "stderr.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "idarts_nni", "run", str(self.file), *options],
            stdout=subprocess.PIPE,
            stderr=self.said.open("w"),
            env={**clean, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
            cwd=folder,
            text=True,
        )

    def wait_for(self, pattern: str, seconds: float = 90.0) -> re.Match[str]:
        """Wait until the command has said something on its error output."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.said.read_text()):
                return found
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.1)
        raise AssertionError(f"No {pattern!r}: {self.said.read_text()}")

    def finish(self, seconds: float = 180.0) -> tuple[int, str, str]:
        """Wait for the end; return exit code, output, error output."""
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output, self.said.read_text()

    def left_over(self) -> list[psutil.Process]:
        """Return the processes that still belong to this experiment."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ", "status"]):
            text = " ".join(process.info["cmdline"] or []) + str((process.info["environ"] or {}).get("HOME"))
            if str(self.folder) in text and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


def test_run_searches_and_retrains_to_a_table_and_pictures_and_leaves_nothing_running(tmp_path):
    run = Run(tmp_path)
    port = int(run.wait_for(r"Web page: http://localhost:(\d+)")[1])
    listening = {
        one.laddr for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port
    }
    code, output, said = run.finish()
    assert code == 0, said
    assert {place.ip for place in listening if place.port == port} == {"127.0.0.1"}
    for word in ("search-idarts-s1 started", "search-idarts-s1 done", "retrain-lstm-r1 done"):
        assert word in said
    results = output.partition("Results")[2]
    assert re.search(r"\| idarts \|\s+1 \|\s+1 \| [0-9a-f]{8} \|\s+101\.00 \|\s+100\.00 \|", results)
    assert re.search(r"\| lstm   \|", results)
    paths = [Path(path) for path in re.findall(r"/\S+", output.partition("Tables:")[2])]
    assert sorted(path.suffix for path in paths) == [".csv", ".html", ".md", ".png", ".svg"]
    assert all(path.stat().st_size > 100 for path in paths)
    assert run.left_over() == []
    # The ended experiment is found again by its folder, and says the same.
    again = subprocess.run(
        [sys.executable, "-m", "idarts_nni", "report", str(paths[0].parents[1]), "--results", str(tmp_path / "r.csv")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert again.returncode == 0 and results.partition("Tables:")[0].strip() in again.stdout
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_stops_the_experiment_and_its_trials(tmp_path, number):
    run = Run(tmp_path, search={"pause": 60}, retrain={"pause": 60})
    run.wait_for("search-idarts-s1 started")
    run.process.send_signal(number)
    code, output, said = run.finish()
    assert code == 128 + number
    assert "nnictl resume" in said and "unfinished" in output
    assert run.left_over() == []


@pytest.mark.slow
def test_signal_during_the_start_leaves_no_manager_behind(tmp_path):
    run = Run(tmp_path, search={"pause": 60})
    deadline = time.monotonic() + 60
    while not any("nnictl" in " ".join(child.cmdline()) for child in psutil.Process(run.process.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.process.send_signal(signal.SIGINT)
    code, _, said = run.finish()
    assert code == 130, said
    assert run.left_over() == []


@pytest.mark.slow
def test_task_without_a_result_is_exit_code_1_with_the_reason_and_a_visible_gap(tmp_path):
    run = Run(tmp_path, retrain={"crash": ["retrain-lstm-r1"]}, max_attempts=1)
    code, output, said = run.finish()
    assert code == 1
    assert "Task retrain-lstm-r1 has no result" in said and "RuntimeError: this trial was told to fail" in said
    assert re.search(r"\| lstm .*\| failed ", output) and re.search(r"\| idarts .*\| 101\.00 ", output)


@pytest.mark.parametrize(
    "class_args, words",
    [({"search_sedes": [1]}, "Did you mean 'search_seeds'?"), ({"data": "gone"}, "there is no such folder")],
    ids=["argument", "data"],
)
def test_file_with_a_problem_is_exit_code_2_and_nothing_is_started(tmp_path, class_args, words):
    run = Run(tmp_path, **class_args)
    code, output, said = run.finish()
    assert code == 2 and words in said and "Traceback" not in said and output == ""
    assert not (tmp_path / "experiments").exists() and not (tmp_path / "nni-experiments").exists()


def test_port_in_use_is_exit_code_2(tmp_path):
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code, _, said = Run(tmp_path, "--port", str(server.getsockname()[1])).finish()
    assert code == 2 and "is in use" in said


@pytest.mark.parametrize("arguments, words", [
    (["run", "gone.yaml"], "gone.yaml: there is no such file"),
    (["show", "gone.yaml"], "gone.yaml: there is no such file"),
    (["draw", str(CELLS / "darts_v2.yaml"), "-o", "cell.pdf"], "endings: .png"),
    (["report"], "name an experiment id"),
    (["report", "NoSuchId"], "no experiment 'NoSuchId'"),
])  # fmt: skip
def test_unusable_argument_is_exit_code_2_with_the_reason(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_show_prints_every_node_and_checks_the_space(capsys):
    cell = str(CELLS / "darts_v2.yaml")
    assert main(["show", cell, "--space", str(ROOT / "search_spaces" / "recurrent8.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "DARTS V2" in printed and "node 4       identity(1)" in printed and "fits" in printed
    assert main(["show", cell, "--space", str(ROOT / "search_spaces" / "tiny.yaml")]) == 1
    assert "has 8 nodes, its search space 3" in capsys.readouterr().err


def test_draw_writes_every_output_and_prints_its_path(tmp_path, capsys):
    outputs = [str(tmp_path / f"cell.{kind}") for kind in ("png", "svg", "dot")]
    assert main(["draw", str(CELLS / "idarts.yaml"), *(word for path in outputs for word in ("-o", path))]) == 0
    assert capsys.readouterr().out.split() == outputs
    assert '"I-DARTS"' in Path(outputs[2]).read_text()


def test_cell_for_images_is_shown_and_drawn(tmp_path, capsys):
    file = tmp_path / "image.yaml"
    file.write_text("choices: {normal/op_2_0: sep_conv_3x3, normal/input_2_0: [0]}\n")
    assert main(["show", str(file)]) == 0 and "sep_conv_3x3" in capsys.readouterr().out
    assert main(["draw", str(file)]) == 0 and (tmp_path / "image.png").stat().st_size > 1000


def test_report_of_a_folder_outside_nni(tmp_path, capsys):
    for seed in (1, 2):
        (tmp_path / f"r{seed}").mkdir()
        (tmp_path / f"r{seed}" / "record.json").write_text(json.dumps(record(seed=seed)))
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "100.00 ± 0.00" in capsys.readouterr().out
    assert (tmp_path / "out" / "records.csv").is_file()


def test_readme_of_this_repository_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    if not Path("README.md").is_file():
        pytest.skip("There is no README yet.")
    assert main(["report", "--update-readme", "--check"]) == 0


def test_tables_of_both_documents_are_renewed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--update-readme"]) == 2 and "no README.md and no docs" in capsys.readouterr().err
    (tmp_path / "trials" / "results").mkdir(parents=True)
    merge_results(tmp_path / "trials" / "results" / "small.csv", [record()])
    (tmp_path / "docs").mkdir()
    for place in ("README.md", "docs/results.md"):
        (tmp_path / place).write_text("<!-- results:small -->\n<!-- /results -->\n")
    assert main(["report", "--update-readme", "--check"]) == 1
    assert main(["report", "--update-readme", "--readme", "docs/results.md"]) == 0
    assert "100.00" in (tmp_path / "docs" / "results.md").read_text() and "100.00" not in Path("README.md").read_text()
    assert main(["report", "--update-readme"]) == 0 and "100.00" in Path("README.md").read_text()


def test_every_command_names_a_function_that_is_there():
    parsers = next(action.choices for action in build_parser()._actions if action.dest == "command")
    assert {"run", "show", "draw", "report"} <= set(parsers)
    for name, parser in parsers.items():
        assert callable(command_function(parser.get_default("function"))), name


def test_version_and_help_say_what_there_is(capsys):
    for arguments, words in ((["--version"], "idarts 0."), (["--help"], "idarts run"), (["run", "--help"], "Ctrl-C")):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0 and words in capsys.readouterr().out


def test_no_command_shows_what_there_is(capsys):
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "idarts watch EXPERIMENT_ID" in said and "COMMAND" in said


def test_database_that_cannot_be_read_is_told_without_a_traceback(tmp_path, capsys):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "nni.sqlite").write_bytes(b"not a database " * 100)
    assert main(["report", str(tmp_path)]) == 2
    assert "NNI's database of this experiment cannot be read: file is not a database." in capsys.readouterr().err
