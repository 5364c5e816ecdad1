"""The package as strangers get it: what sdist and wheel hold and say, what the extras are for."""

from __future__ import annotations

import email.message
import email.parser
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import attrs
import docutils.nodes
import pytest

from tests.guide import document

TREE = Path(__file__).parents[1]
DOTFILES = (".gitattributes", ".gitignore")
NAME = "comfy_client_blocking"
#: The most bytes of the wheel: lower it when it gets smaller.
LARGEST_WHEEL = 1_800_000
#: Folders of the checkout, all of whose files are in the sdist.
FOLDERS = (".ci", ".github", "comfy_client", "tests")
#: Files of the package that are no modules, and that the wheel has.
DATA = re.compile(
    r"comfy_client/(py\.typed|\w+\.json|\w+\.ipynb|\w+\.md|guide/[\w-]+\.rst"
    r"|testing/[\w.]+\.json(\.gz)?|testing/README\.rst|testing/Dockerfile)"
)
#: What stands beside the package in a wheel.
INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
EGG_INFO = {"PKG-INFO", "SOURCES.txt", "dependency_links.txt", "entry_points.txt"}
EGG_INFO |= {"requires.txt", "top_level.txt"}
#: Extras for those who work on the package.
WORK = {"test", "docs", "dev"}
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def settings() -> ConfigParser:
    config = ConfigParser()
    config.read(TREE / "setup.cfg", encoding="utf-8")
    return config


def requirements() -> dict[str, set[str]]:
    """What each extra installs, with the lowest releases."""
    lines = settings()["options.extras_require"].items()
    return {extra: {line for line in text.split("\n") if line} for extra, text in lines}


def extras() -> dict[str, list[str]]:
    """The names of the distributions that each extra installs, in their order."""
    lines = settings()["options.extras_require"].items()
    return {extra: re.findall(r"^[\w.-]+", text, re.MULTILINE) for extra, text in lines}


# -- building ---------------------------------------------------------------------------


@attrs.frozen
class Built:
    """What was built from a copy of the checkout."""

    files: frozenset[str]  #: Of the checkout.
    sdist: Path
    wheel: Path

    def metadata(self) -> email.message.Message:
        with zipfile.ZipFile(self.wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
            return email.parser.Parser().parsestr(archive.read(name).decode())


def build(kind: str, tree: Path, target: Path) -> Path:
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return target / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build as ``python -m build`` does, which needs the network: the wheel from the sdist."""
    if not (TREE / "comfy_client" / "__init__.py").exists():
        pytest.skip("only the installed package is here")
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools, of the extra [test]")
    if importlib.util.find_spec("setuptools.command.bdist_wheel") is None:
        pytest.skip("needs setuptools that builds wheels alone")
    home = tmp_path_factory.mktemp("built")
    tree, target = home / "tree", home / "dist"
    target.mkdir()
    tree.mkdir()
    skipped = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.egg-info")
    for folder in FOLDERS:
        shutil.copytree(TREE / folder, tree / folder, ignore=skipped)
    tops = ("LICENSE", "MANIFEST.in", "README.rst", "setup.cfg", "setup.py", *DOTFILES)
    for path in (*(TREE / name for name in tops), *TREE.glob(".*.toml"), *TREE.glob(".*.yaml")):
        shutil.copy(path, tree)
    files = frozenset(str(f.relative_to(tree)) for f in tree.rglob("*") if f.is_file())
    sdist = build("sdist", tree, target)
    with tarfile.open(sdist) as archive:
        archive.extractall(home / "unpacked", filter="data")
    [unpacked] = (home / "unpacked").iterdir()
    return Built(files, sdist, build("wheel", unpacked, target))


def test_the_sdist_holds_the_whole_checkout(built: Built) -> None:
    """And what setuptools adds; so its tests can be run."""
    with tarfile.open(built.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    added = {"PKG-INFO", *(f"{NAME}.egg-info/{name}" for name in EGG_INFO)}
    assert names == built.files | added


def test_the_wheel_holds_the_modules_and_their_data(built: Built) -> None:
    """No tests, no sources of anything else."""
    modules = {name for name in built.files if re.match(r"comfy_client/.*\.pyi?$", name)}
    plugin = "comfy_client/testing/plugin/"
    modules = {name.replace(plugin, "pytest_comfy_client/") for name in modules}
    data = {name for name in built.files if DATA.fullmatch(name)}
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == modules | data
    assert {name.partition(".dist-info/")[2] for name in info} == INFO
    of_package = {name for name in built.files if name.startswith("comfy_client/")}
    assert {name for name in of_package - data if not name.endswith(".py")} == set()
    assert built.wheel.stat().st_size < LARGEST_WHEEL


def test_the_metadata_say_what_strangers_look_for(built: Built) -> None:
    """As long as there is no repository, nothing leads there."""
    said = built.metadata()
    assert said["Name"] == "comfy-client-blocking"
    assert len(said["Summary"]) <= 120
    assert said["License"] == "MIT"
    assert "comfyui" in said["Keywords"].split(",")
    assert said["Requires-Python"] == ">=3.11"
    text = said.get_payload()
    assert isinstance(text, str)
    assert "pip install comfy-client-blocking" in text.partition("::\n")[0]
    assert said.get_all("Project-URL") is None  # none that does not exist: see .ci/release
    assert not re.search(r"comfy_client/guide|\btests/|^\.\. image", text, re.MULTILINE)
    assert "Getting started goes through all of this" in " ".join(text.split())


def test_links_of_the_readme_lead_into_the_repository_once_there_is_one(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the version that is released."""
    said: dict[str, str] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: said.update(options))
    (tmp_path / "comfy_client").mkdir()
    for name in ("setup.py", "README.rst", "comfy_client/_version.py"):
        shutil.copy(TREE / name, tmp_path / name)
    source = "https://github.com/somebody/client"
    (tmp_path / "setup.cfg").write_text(f"[metadata]\nproject_urls =\n    Source = {source}\n")
    runpy.run_path(str(tmp_path / "setup.py"))
    links = re.findall(r"(?:image::|<)\s?(\S+\.(?:rst|png))", said["long_description"])
    assert len(links) > 20
    base = rf"{re.escape(source)}/(?:blob|raw)/v{re.escape(built.metadata()['Version'])}/(.+)"
    targets = [re.fullmatch(base, link) for link in links]
    assert all(targets), links
    assert {target[1] for target in targets if target} <= built.files


def test_the_metadata_name_what_each_extra_installs(built: Built) -> None:
    said = built.metadata()
    assert set(said.get_all("Provides-Extra", [])) == extras().keys()
    required: dict[str, list[str]] = {extra: [] for extra in extras()}
    for line in said.get_all("Requires-Dist", []):
        name, extra = re.match(r"([\w.-]+)[^;]*(?:; extra == \"(\w+)\")?$", line).groups()
        required.get(extra, []).append(name)
    assert required == extras()


# -- the tests of this project ------------------------------------------------------------

WARNS = """
import warnings, pytest

def pytest_configure():
    said = 'The configuration option "asyncio_default_fixture_loop_scope" is unset.\\nMore.'
    warnings.warn(pytest.PytestDeprecationWarning({said}))
"""


@pytest.mark.parametrize(("said", "status"), [("said", 0), ("'Another warning'", 3)])
def test_the_tests_run_beside_pytest_asyncio(tmp_path: Path, said: str, status: int) -> None:
    """It warns of an option that cannot be set without it; any other warning is an error."""
    (tmp_path / "warns.py").write_text(WARNS.replace("{said}", said))
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    config = ("-c", str(TREE / "setup.cfg"), "-o", "addopts=", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *config, "-p", "warns", "test_it.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == status, ran.stdout + ran.stderr


# -- the workflows that publish it ------------------------------------------------------


def test_workflows_run_pinned_actions_and_only_publishing_may_more_than_read() -> None:
    """A tag can be moved; a commit cannot."""
    workflows = {
        path.stem: path.read_text("utf-8") for path in TREE.glob(".github/workflows/*.yml")
    }
    assert workflows.keys() == {"ci", "release"}
    for text in workflows.values():
        used = re.findall(r"uses: (.+)", text)
        assert used
        assert [use for use in used if not re.fullmatch(r"\S+@[0-9a-f]{40} # v\S+", use)] == []
        assert re.search(r"^permissions:\n  contents: read$", text, re.MULTILINE)
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")
        assert not re.search(r"run:.*\${{", text), "an expression in a script may be code"
    granted = {name: re.findall(r"(\S+): write", text) for name, text in workflows.items()}
    assert granted == {"ci": [], "release": ["id-token"]}
    publish = workflows["release"].partition("  publish:\n")[2]
    assert "id-token: write" in publish
    assert "run:" not in publish


# -- what is told -----------------------------------------------------------------------


def told_extras() -> dict[str, list[str]]:
    """The cells of each row of the table of extras in *Getting started*, by the extra."""
    found = {}
    for row in document("start").findall(docutils.nodes.row):
        name, *cells = [cell.astext().replace("\n", " ") for cell in row.children]
        if name.startswith("["):
            found[name.strip("[]")] = cells
    return found


def test_the_guide_says_what_each_extra_is_for() -> None:
    told = told_extras()
    assert told.keys() == extras().keys()
    for extra, (installs, sentence) in told.items():
        if extra not in {"all", *WORK}:
            assert installs.split(", ") == extras()[extra], extra
        assert re.fullmatch(r"[A-Z][^.]*( \.[^.]*)?\.", sentence), sentence


def test_the_extra_all_is_the_sum_of_the_others_and_is_tested() -> None:
    """But for those who work on the package, and for ComfyUI's page, which is large."""
    found = requirements()
    assert found["all"] == set().union(
        *(found[name] for name in found.keys() - {"all", "frontend", *WORK})
    )
    assert found["all"] <= found["test"]


def test_the_guide_says_how_an_install_goes_wrong() -> None:
    text = document("start").astext()
    for words in ("No matching distribution found for comfy_client", "comfy_client_blocking"):
        assert words in text
