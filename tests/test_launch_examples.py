import os
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "examples" / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in {".sh", ".sbatch"})
SHELL_PROGRAMS = ("bash", "env", "uname", "mktemp", "mkdir", "rmdir", "rm", "hostname")


def run(*command, path=os.environ["PATH"]):
    command, environment = [str(part) for part in command], {**os.environ, "PATH": str(path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def left_behind():
    folders = [Path("/run/netns"), Path("/etc/netns"), Path.home() / ".ssh"]
    return [(folder, folder.is_dir() and sorted(folder.iterdir())) for folder in folders]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_parse_the_script(script):
    done = run("bash", "-n", script)
    assert (done.returncode, done.stderr) == (0, "")


def test_deepspeed_can_parse_the_hostfile():
    from deepspeed.launcher.runner import fetch_hostfile

    assert fetch_hostfile(str(LAUNCH / "hostfile")) == {"host1": 1, "host2": 1}


def test_two_hosts_run_the_command_or_say_what_is_missing_and_leave_nothing_behind():
    before = left_behind()
    done = run(LAUNCH / "two_hosts.sh", "hostname")
    assert left_behind() == before
    if done.returncode == 0:
        assert done.stdout == "host1\n"
    else:
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "root" in done.stderr or "which this machine has not" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root is asked for before the programs are")
@pytest.mark.parametrize("missing", ["unshare", "ssh", "ssh-keygen"])
def test_two_hosts_name_a_missing_program_before_they_make_anything(tmp_path, missing):
    fakes = {"ip", "unshare", "sshd", "ssh", "ssh-keygen"} - {missing}
    for name in SHELL_PROGRAMS:
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in fakes:
        (tmp_path / name).write_text("#!/usr/bin/env bash\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    before = left_behind()
    done = run(LAUNCH / "two_hosts.sh", "hostname", path=tmp_path)
    assert done.returncode == 2
    assert f"needs {missing} (package" in done.stderr
    assert left_behind() == before


def test_two_hosts_slurm_outside_of_them_says_what_it_needs():
    done = run(LAUNCH / "two_hosts_slurm.sh", "hostname")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
