"""What a manager of NNI started ends with it, even if the manager is killed."""

import subprocess
import sys
import time

import pytest

from tests.live import ROOT

MANAGER = "import time; print('manager', flush=True); time.sleep(60)"
LEFT_BEHIND = """
import sys
from idarts_nni.lifeline import is_left_behind
sys.stdin.readline()
print(is_left_behind('abc'), is_left_behind('other'), flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("is_younger", [False, True])
def test_a_process_is_left_behind_where_the_manager_is_younger(is_younger):
    scripts = [(LEFT_BEHIND,), (MANAGER, "--experiment-id", "abc", "--port", "8080")]
    processes = []
    try:
        for script in scripts if is_younger else reversed(scripts):
            processes.append(start(*script))
            time.sleep(0.1)
        trial, manager = processes if is_younger else reversed(processes)
        assert manager.stdout.readline() == "manager\n"
        assert trial.communicate("\n", timeout=60)[0].split() == [str(is_younger), "False"]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


DISPATCHER = """
import time
from idarts_nni.lifeline import end_with_manager
end_with_manager()
print('dispatcher', flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when another process ends")
def test_a_dispatcher_ends_with_its_manager_although_a_shell_stands_between():
    # The second command keeps the shell from making room for the first.
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, DISPATCHER]
    script = f"import subprocess; subprocess.run({command!r})"
    with start(script, "--experiment-id", "abc") as manager:
        assert manager.stdout.readline() == "dispatcher\n"
        manager.kill()
        begun = time.monotonic()
        manager.stdout.read()  # until the dispatcher has closed it, too
        assert time.monotonic() - begun < 20
