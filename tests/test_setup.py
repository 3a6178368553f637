"""Set-up: which Python is chosen, what becomes of a broken venv/, and what a failure says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS: tuple[str, ...] = (
    "bash",
    "env",
    "cat",
    "dirname",
    "grep",
    "head",
    "tail",
    "sed",
    "cut",
    "rm",
    "rmdir",
)
TOOLS += ("mkdir", "mv", "touch", "sleep", "id", "tr", "make", "sh", "chmod")
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "3.13" if THIS != "3.13" else "3.12"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return path


#: What `python -m venv` takes seconds for, in no time: enough of a venv/ for setup.sh to judge.
QUICK_VENV = (
    f"""
if [ "$1 $2" = "-I -c" ]; then
  echo "{THIS} yes $0"
  exit
fi
"""
    + """
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  echo "home = elsewhere" >"$3/pyvenv.cfg"
  echo "VIRTUAL_ENV='$PWD/$3'" >"$3/bin/activate"
  cat "$0" >"$3/bin/python"
  chmod +x "$3/bin/python"
  exit
fi
"""
)

#: A pip that has no package: it installs what asks for none, and shows the index it would use.
EMPTY_PIP = """
import os, sys
words = sys.argv[1:]
if words[1:] == ["config", "list"]:
    print(open(os.environ["PIP_CONFIG_FILE"]).read() if "PIP_CONFIG_FILE" in os.environ else "")
    sys.exit()
files = [words[i + 1] for i, word in enumerate(words) if word == "-r"]
lines = [line.strip() for file in files for line in open(file)]
wanted = [line for line in lines if line and line[0] != "#"] + (["uv"] if "uv" in words else [])
sys.exit(f"ERROR: No matching distribution found for {wanted[0]}" if wanted else 0)
"""


def good_python(path: Path) -> Path:
    """Make a Python that is the tests' own, except that its venv and pip cost no time."""
    pip = path.parent.parent / "pip-for-tests" / "pip"
    pip.mkdir(parents=True, exist_ok=True)
    (pip / "__init__.py").write_text("")
    (pip / "__main__.py").write_text(EMPTY_PIP)
    own = f'export PYTHONPATH="{pip.parent}"\nexec "{sys.executable}" "$@"'
    return executable(path, QUICK_VENV + own)


def fake_python(path: Path, version: str, complete: str = "yes") -> Path:
    """Answer the probe as a Python of another version would."""
    return executable(path, f'echo "{version} {complete} $0"')


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Make a machine that has the usual tools and no Python at all."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool, path="/bin:/usr/bin:/usr/sbin")
        if found:
            (tools / tool).symlink_to(found)
    project = tmp_path / "the project"
    (project / "scripts").mkdir(parents=True)
    for name in ("setup.sh", "find_python.sh", "linux-setup.sh"):
        shutil.copy(ROOT / "scripts" / name, project / "scripts" / name)
    shutil.copy(ROOT / "Makefile", project / "Makefile")
    for name in ("requirements.txt", "requirements-data.txt", "requirements-demo.txt"):
        (project / name).write_text("# nothing, so that set-up takes no time\n")
    return tmp_path


@pytest.fixture
def run(machine: Path) -> Run:
    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        home = machine / "home"
        clean = {"PATH": str(machine / "bin"), "HOME": str(home), "PYTHON_PLACES": ""}
        offline = {"PIP_NO_INDEX": "1", "PIP_RETRIES": "0", "UV_OFFLINE": "1", "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            words,
            cwd=machine / "the project",
            env=clean | offline | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def find(run: Run, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("bash", "scripts/find_python.sh", **environment)


def set_up(run: Run, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("bash", "scripts/setup.sh", **environment)


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


# --- the choice of a Python ------------------------------------------------------------------


def test_a_shim_that_fails_is_passed_over(machine: Path, run: Run) -> None:
    executable(machine / "bin" / f"python{THIS}", "echo 'pyenv: command not found' >&2; exit 127")
    executable(machine / "bin" / "python3", f'exec "{sys.executable}" "$@"')
    done = find(run)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).samefile(Path(sys._base_executable))  # type: ignore[attr-defined]


def test_a_shim_does_not_hide_a_good_python_further_down_the_path(machine: Path, run: Run) -> None:
    executable(machine / "shims" / "python3.12", "exit 127")
    fake_python(machine / "bin" / "python3.12", "3.12")
    done = find(run, PATH=f"{machine / 'shims'}:{machine / 'bin'}")
    assert done.stdout.strip() == str(machine / "bin" / "python3.12")


@pytest.mark.parametrize(
    "folder",
    [
        "home/.pyenv/versions/3.12.7/bin",
        "home/.local/share/uv/python/cpython-3.12.9-linux-x86_64-gnu/bin",
        "home/.local/share/mise/installs/python/3.12.3/bin",
    ],
)
def test_a_python_that_is_not_on_the_path_is_found(machine: Path, run: Run, folder: str) -> None:
    python = fake_python(machine / folder / "python3.12", "3.12")
    assert find(run).stdout.strip() == str(python)


def test_the_usual_places_are_looked_into(machine: Path, run: Run) -> None:
    python = fake_python(machine / "opt b" / "python3.12", "3.12")
    done = find(run, PYTHON_PLACES=f"/nowhere:{machine / 'opt b'}")
    assert done.stdout.strip() == str(python)


def test_3_12_is_preferred_to_3_13_and_that_to_3_11(machine: Path, run: Run) -> None:
    paths = {v: fake_python(machine / "bin" / f"python{v}", v) for v in ("3.11", "3.13", "3.12")}
    assert find(run).stdout.strip() == str(paths["3.12"])
    paths["3.12"].unlink()
    assert find(run).stdout.strip() == str(paths["3.13"])
    paths["3.13"].unlink()
    assert find(run).stdout.strip() == str(paths["3.11"])


def test_3_14_alone_is_refused_with_what_to_install(machine: Path, run: Run) -> None:
    fake_python(machine / "bin" / "python3", "3.14")
    done = find(run)
    assert done.returncode == 2
    message = only_error(done)
    assert "found: 3.14" in message
    for remedy in ("brew install python@3.12", "apt install python3.12-venv", "dnf install"):
        assert remedy in message


def test_no_python_at_all_is_one_line_and_exit_2(run: Run) -> None:
    done = find(run)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "none of 3.11, 3.12, 3.13 runs here" in only_error(done)


def test_a_python_without_venv_is_named_with_the_package_to_install(
    machine: Path, run: Run
) -> None:
    fake_python(machine / "bin" / "python3.11", "3.11", complete="no")
    done = find(run)
    assert done.returncode == 2
    assert "apt install python3.11-venv" in only_error(done)


def test_a_python_without_venv_will_do_where_uv_is(machine: Path, run: Run) -> None:
    python = fake_python(machine / "bin" / "python3.11", "3.11", complete="no")
    executable(machine / "bin" / "uv", "echo uv 0.9")
    assert find(run).stdout.strip() == str(python)


def test_a_forced_python_outranks_a_better_one(machine: Path, run: Run) -> None:
    fake_python(machine / "bin" / "python3.12", "3.12")
    wanted = fake_python(machine / "my own" / "python", "3.11")
    assert find(run, PYTHON=str(wanted)).stdout.strip() == str(wanted)


@pytest.mark.parametrize(("version", "says"), [("3.14", "is Python 3.14"), ("", "does not run")])
def test_a_forced_python_that_does_not_suit_is_refused(
    machine: Path, run: Run, version: str, says: str
) -> None:
    fake_python(machine / "bin" / "python3.12", "3.12")
    wanted = machine / "mine" / "python"
    if version:
        fake_python(wanted, version)
    done = find(run, PYTHON=str(wanted))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in only_error(done)


# --- venv/ ------------------------------------------------------------------------------------


@pytest.fixture
def project(machine: Path, run: Run) -> Path:
    """Set a project up with nothing to install, by the Python that runs the tests."""
    good_python(machine / "bin" / f"python{THIS}")
    done = set_up(run)
    assert done.returncode == 0, done.stderr
    return machine / "the project"


def python_runs(project: Path) -> bool:
    return (
        subprocess.run([project / "venv/bin/python", "-c", "import pip"], check=False).returncode
        == 0
    )


def test_set_up_in_a_path_with_spaces_ends_with_a_stamp(project: Path) -> None:
    assert (project / "venv/.stamp").read_text().strip() == str(project.resolve())
    assert not (project / "venv/.unfinished").exists()


def test_a_sound_venv_is_kept(project: Path, run: Run) -> None:
    mine = project / "venv/mine"
    mine.write_text("")
    assert set_up(run).returncode == 0
    assert mine.exists()


def dangling(project: Path) -> None:
    python = project / "venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.12")


def of_another_version(project: Path) -> None:
    (project / "venv/bin/python").unlink()
    executable(project / "venv/bin/python", "echo 3.9")


def unfinished(project: Path) -> None:
    (project / "venv/.unfinished").write_text("")


def moved(project: Path) -> None:
    activate = project / "venv/bin/activate"
    activate.write_text(activate.read_text().replace(str(project.resolve()), "/elsewhere"))


def without_pip(project: Path) -> None:
    (project / "venv/bin/python").unlink()
    executable(project / "venv/bin/python", f'exec "{sys.executable}" -I -S "$@"')


@pytest.mark.parametrize("breaks", [dangling, of_another_version, unfinished, moved, without_pip])
def test_a_broken_venv_is_made_anew(
    project: Path, run: Run, breaks: Callable[[Path], None]
) -> None:
    breaks(project)
    (project / "venv/of-old").write_text("")
    done = set_up(run)
    assert done.returncode == 0, done.stderr
    assert "made anew" in done.stderr
    assert not (project / "venv/of-old").exists()
    assert python_runs(project)


def test_a_venv_that_is_a_dangling_link_is_made_anew(project: Path, run: Run) -> None:
    shutil.rmtree(project / "venv")
    (project / "venv").symlink_to("/nowhere")
    assert set_up(run).returncode == 0
    assert python_runs(project)


def test_a_folder_called_venv_that_is_none_is_left_alone(project: Path, run: Run) -> None:
    shutil.rmtree(project / "venv")
    (project / "venv").mkdir()
    (project / "venv/thesis.txt").write_text("years of work")
    done = set_up(run)
    assert done.returncode == 2
    assert "move it away" in only_error(done)
    assert (project / "venv/thesis.txt").read_text() == "years of work"


def test_another_python_asked_for_replaces_the_venv_only_once_it_is_found(
    project: Path, run: Run
) -> None:
    done = set_up(run, PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "does not run" in only_error(done)
    assert python_runs(project)


def test_a_real_venv_is_made_and_found_sound(machine: Path, run: Run) -> None:
    real = Path(sys._base_executable)  # type: ignore[attr-defined]
    (machine / "bin" / f"python{THIS}").symlink_to(real)
    done = set_up(run)
    assert done.returncode == 0, done.stderr
    assert python_runs(machine / "the project")
    assert "made anew" not in set_up(run).stderr


# --- packages ---------------------------------------------------------------------------------


def test_a_package_that_cannot_be_had_is_one_line_and_leaves_no_stamp(
    project: Path, run: Run
) -> None:
    (project / "requirements.txt").write_text("no-such-package==1\n")
    done = set_up(run)
    assert done.returncode == 3
    assert "no-such-package" in only_error(done)
    assert not (project / "venv/.stamp").exists()
    (project / "requirements.txt").write_text("\n")
    again = set_up(run)
    assert again.returncode == 0
    assert "made anew" not in again.stderr


def fake_uv(machine: Path, status: int) -> Path:
    """Make a uv that writes down what it was asked, with the index it was given."""
    log = machine / "uv.log"
    refuse = f'case "$1" in venv|pip) exit {status};; esac'
    script = f'echo "$1 $2 index=$UV_INDEX_URL" >>"{log}"\n{refuse}'
    executable(machine / "bin" / "uv", script)
    return log


def test_pip_takes_over_where_uv_fails(machine: Path, project: Path, run: Run) -> None:
    log = fake_uv(machine, status=1)
    done = set_up(run)
    assert done.returncode == 0, done.stderr
    assert "pip install" in log.read_text()


def test_pips_index_is_handed_to_uv(machine: Path, project: Path, run: Run) -> None:
    log = fake_uv(machine, status=0)
    set_up(run, PIP_INDEX_URL="https://mirror.example/simple")
    assert "index=https://mirror.example/simple" in log.read_text()


def test_an_index_in_pips_file_is_handed_to_uv(machine: Path, project: Path, run: Run) -> None:
    log = fake_uv(machine, status=0)
    file = machine / "pip.conf"
    file.write_text("global.index-url='https://file.example/simple'\n")  # as EMPTY_PIP shows it
    set_up(run, PIP_CONFIG_FILE=str(file))
    assert "index=https://file.example/simple" in log.read_text()


def test_uvs_own_index_outranks_pips(machine: Path, project: Path, run: Run) -> None:
    log = fake_uv(machine, status=0)
    set_up(run, PIP_INDEX_URL="https://pip.example", UV_INDEX_URL="https://uv.example")
    assert "index=https://uv.example" in log.read_text()
    assert "pip.example" not in log.read_text()


def test_a_password_in_an_index_address_is_not_shown(
    machine: Path, project: Path, run: Run
) -> None:
    script = 'case "$1" in pip) echo "error: no https://me:s3cret@host/simple" >&2; exit 1;; esac'
    executable(machine / "bin" / "uv", script)
    (project / "requirements.txt").write_text("no-such-package==1\n")
    done = set_up(run)
    assert "https://***@host/simple" in only_error(done)
    assert "s3cret" not in done.stdout + done.stderr


def test_no_wheel_for_the_model_server_is_a_note_and_no_failure(project: Path, run: Run) -> None:
    (project / "requirements-demo.txt").write_text("no-such-server==1\n")
    done = run("bash", "scripts/setup.sh", "demo")
    assert done.returncode == 0, done.stderr
    assert "no-such-server" in done.stderr
    assert "the simulator takes its place" in done.stderr


def test_no_wheel_is_asked_for_again_only_when_the_requirements_change(
    project: Path, run: Run
) -> None:
    wanted, stamp = project / "requirements-demo.txt", project / "venv/.stamp-demo"
    wanted.write_text("no-such-server==1\n")
    assert "simulator" in run("make", "venv/.stamp-demo").stderr
    assert "touch requirements-demo.txt" in stamp.read_text()
    assert run("make", "venv/.stamp-demo").stderr == ""
    os.utime(wanted, ns=(stamp.stat().st_mtime_ns + 10**9,) * 2)
    assert "simulator" in run("make", "venv/.stamp-demo").stderr


def test_a_network_that_failed_is_asked_again(machine: Path, project: Path, run: Run) -> None:
    script = 'case "$1" in pip) echo "error: Failed to fetch: connection refused"; exit 1;; esac'
    executable(machine / "bin" / "uv", script)
    (project / "requirements-demo.txt").write_text("no-such-server==1\n")
    done = run("bash", "scripts/setup.sh", "demo")
    assert "the simulator takes its place" in done.stderr
    assert not (project / "venv/.stamp-demo").exists()


def model_server(machine: Path, text: str) -> None:
    (machine / "pip-for-tests" / "xllamacpp.py").write_text(text)


def test_a_model_server_that_loads_gets_its_stamp(machine: Path, project: Path, run: Run) -> None:
    model_server(machine, "")
    assert run("bash", "scripts/setup.sh", "demo").returncode == 0
    assert (project / "venv/.stamp-demo").exists()


def test_a_model_server_that_lacks_a_library_is_a_note_with_the_package(
    machine: Path, project: Path, run: Run
) -> None:
    model_server(machine, "raise ImportError('libgomp.so.1: cannot open shared object file')")
    done = run("bash", "scripts/setup.sh", "demo")
    assert done.returncode == 0, done.stderr
    assert "install libgomp1" in done.stderr
    assert not (project / "venv/.stamp-demo").exists()


# --- make -------------------------------------------------------------------------------------


def test_a_second_make_setup_says_and_does_nothing(project: Path, run: Run) -> None:
    again = run("make", "setup")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_make_sets_up_again_when_a_requirement_changed(project: Path, run: Run) -> None:
    stamp = project / "venv/.stamp"
    os.utime(stamp, (1, 1))
    assert run("make", "setup").returncode == 0
    assert stamp.stat().st_mtime > 1


def test_make_sets_up_again_when_the_folder_was_moved(machine: Path, project: Path) -> None:
    elsewhere = machine / "else where"
    project.rename(elsewhere)
    environment = {"PATH": str(machine / "bin"), "HOME": "/nowhere", "PYTHON_PLACES": ""}
    environment |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    done = subprocess.run(
        ["make", "setup"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "made anew" in done.stderr
    assert (elsewhere / "venv/.stamp").read_text().strip() == str(elsewhere.resolve())


def test_only_make_setup_itself_tells_the_next_step(project: Path, run: Run) -> None:
    (project / "venv/.stamp").unlink()
    assert "Next:" in run("make", "setup").stderr
    (project / "venv/.stamp").unlink()
    assert "Next:" not in run("make", "smoke").stderr


# --- linux-setup.sh ---------------------------------------------------------------------------


def linux(
    machine: Path, run: Run, name: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    release = machine / "os-release"
    release.write_text(name)
    if not (machine / "bin" / "uname").exists():
        executable(machine / "bin" / "uname", "echo x86_64")
    return run("bash", "scripts/linux-setup.sh", OS_RELEASE=str(release), **environment)


def logging(machine: Path, tool: str, then: str = "") -> Path:
    (machine / "bin" / tool).unlink(missing_ok=True)
    log = machine / f"{tool}.log"
    executable(machine / "bin" / tool, f'echo "$@" >>"{log}"\n{then}')
    return log


def test_an_unknown_distribution_is_one_line_and_exit_2(machine: Path, run: Run) -> None:
    done = linux(machine, run, "ID=templeos\n")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "templeos" in only_error(done)


def test_debian_gets_python_with_venv_and_then_make_setup(machine: Path, run: Run) -> None:
    made = logging(machine, "make")
    logging(machine, "ldconfig")
    logging(machine, "apt-cache", 'case "$2" in python3.11*) echo Package: $2;; esac')
    apt = logging(machine, "apt-get")
    executable(machine / "bin" / "sudo", 'echo "sudo $1" >&2; exec "$@"')
    (machine / "bin/id").unlink()
    executable(machine / "bin" / "id", "echo 1000")
    done = linux(machine, run, 'ID=mint\nID_LIKE="ubuntu debian"\n')
    assert done.returncode == 0, done.stderr
    assert apt.read_text().splitlines()[0].startswith("update")
    assert apt.read_text().splitlines()[1].endswith(" python3.11 python3.11-venv libgomp1")
    assert "sudo apt-get" in done.stderr
    assert made.read_text() == "setup\n"


def test_a_machine_without_wheels_gets_a_compiler(machine: Path, run: Run) -> None:
    executable(machine / "bin" / "uname", "echo aarch64")
    apt = logging(machine, "apt-get")
    executable(machine / "bin" / "apt-cache", '[ "$2" != python3.12 ] || echo offered')
    logging(machine, "ldconfig", "echo libgomp.so.1")
    logging(machine, "make")
    linux(machine, run, "ID=debian\n")
    assert (
        apt.read_text().splitlines()[-1].endswith(" python3.12 python3.12-venv python3.12-dev gcc")
    )


def test_red_hat_gets_python_by_dnf_and_root_needs_no_sudo(machine: Path, run: Run) -> None:
    logging(machine, "make")
    logging(machine, "ldconfig", "echo libgomp.so.1")
    dnf = logging(machine, "dnf", 'case "$*" in *python3.1[12]) exit 0;; esac')
    (machine / "bin/id").unlink()
    executable(machine / "bin" / "id", "echo 0")
    done = linux(machine, run, 'ID="rocky"\nID_LIKE="rhel centos fedora"\n')
    assert done.returncode == 0, done.stderr
    assert dnf.read_text().splitlines()[-1] == "install -y -q python3.12"


def test_nothing_missing_asks_no_package_manager(machine: Path, run: Run) -> None:
    fake_python(machine / "bin" / "python3.12", "3.12")
    made = logging(machine, "make")
    logging(machine, "ldconfig", "echo '  libgomp.so.1 (libc6) => /lib/libgomp.so.1'")
    apt = logging(machine, "apt-get")
    done = linux(machine, run, "ID=debian\n")
    assert done.returncode == 0, done.stderr
    assert not apt.exists()
    assert made.read_text() == "setup\n"


def test_no_root_and_no_sudo_is_one_line(machine: Path, run: Run) -> None:
    logging(machine, "apt-get")
    (machine / "bin/id").unlink()
    executable(machine / "bin" / "id", "echo 1000")
    done = linux(machine, run, "ID=debian\n")
    assert done.returncode == 2
    assert "no sudo" in only_error(done)
