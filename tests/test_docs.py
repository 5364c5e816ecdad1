"""The documentation site: its order, its links and its pictures, as far as needs no Sphinx."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest
from PIL import Image

import comfy_client
from tests.docs import pages, sources
from tests.docs.links import mistakes
from tests.docs.pages import (
    FOLDER,
    PICTURES,
    WORDS,
    guide,
    illustrated,
    linked,
    reference,
    target_of,
)
from tests.guide import PAGES, README, public_names, text_of

#: Most bytes of a picture, and of all.
MOST, MOST_OF_ALL = 100_000, 1_000_000


def test_the_guide_has_each_page_once() -> None:
    """A page that no group names stands in the last group."""
    in_order = [page for group in guide().values() for page in group]
    assert sorted(in_order) == sorted(PAGES.keys() - {"README"})


def test_the_reference_shows_each_public_name_on_one_page() -> None:
    """The file of a page differs from others in more than the case of its letters."""
    names = [entry.name for entry in reference() if entry.module is comfy_client]
    assert sorted(names) == sorted(set(public_names(comfy_client)) - {"__version__"})
    files = [entry.page.lower() for entry in reference()]
    assert len(files) == len(set(files)) >= 140


def test_an_object_links_to_the_guide() -> None:
    """Its group's page comes first."""
    pages_of = {entry.path: pages.mentions(entry) for entry in reference()}
    assert pages_of["comfy_client.Job"][0].startswith(("`Jobs: ", ":doc:`/jobs`"))
    assert any("cluster.html#" in told for told in pages_of["comfy_client.JobLost"])
    assert all(1 <= len(told) <= 4 for told in pages_of.values())


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("ComfyPool", "comfy_client.ComfyPool"),
        ("api.run", "comfy_client.ComfyApi.run"),
        ('result.save("out/")', "comfy_client.Result.save"),
        ("aio.result", "comfy_client.aio.result"),
        ("server.faults", "comfy_client.testing.ComfyServer.faults"),
        ("testing.Faults", "comfy_client.testing.Faults"),
        ("row.seconds", "comfy_client.SweepRow.seconds"),
        ("HostedApi.run", "comfy_client.ComfyApi.run"),
        ("KSampler", None),
        ("api._http", None),
        ("api.nothing", None),
        ("result", None),
        ("api.run or api.map", None),
    ],
)
def test_a_name_in_a_text_links_to_the_reference(code: str, target: str | None) -> None:
    """A name with a variable of the examples does, a word of the guide does not."""
    assert target_of(code) == target


def test_links_between_pages_become_those_of_the_site() -> None:
    """Pages, sections, and files of the package."""
    text = "`Jobs\n<jobs.rst>`__, `a <comfy_client/guide/a.rst#b-c>`__, `s <../schema.json>`__"
    assert linked(text) == ":doc:`Jobs\n<jobs>`, `a <a.html#b-c>`__, :download:`s <schema.json>`"


def test_a_picture_stands_below_the_title_of_its_section() -> None:
    """It has a text for those who cannot see it, and leads to itself at its full size."""
    for picture in PICTURES:
        text = illustrated(picture.page)
        _, below = text.split(f"\n.. image:: {picture.name}\n")
        assert below.startswith(f"   :alt: {picture.alt}\n   :target: _images/{picture.name}\n")


def test_the_search_shows_the_section_that_explains_a_word_first() -> None:
    """Each word has one section, whose entry in the index is a main one."""
    words = [word for of_section in WORDS.values() for word in of_section.split(", ")]
    assert len(words) == len(set(words))
    entries = {page: illustrated(page).count("\n.. index:: ! ") for page, _ in WORDS}
    assert entries == Counter(page for page, _ in WORDS)
    assert "\n.. index:: ! docker, ! kubernetes, ! container\n" in illustrated("service")


def test_the_search_leaves_out_the_pages_for_developers() -> None:
    """Sphinx reads the field as metadata only before anything else."""
    left_out = {page for page in PAGES.keys() - {"README"} if "nosearch" in _metadata(page)}
    assert left_out == {"changes", "development", "inside", "releasing"}


def _metadata(page: str) -> set[str]:
    """The names of the fields at the top of a page."""
    first = docutils.core.publish_doctree(
        pages.source(page).split("\n\n")[0], settings_overrides={"doctitle_xform": False}
    ).next_node(docutils.nodes.docinfo)
    return {field[0].astext() for field in first or () if isinstance(field, docutils.nodes.field)}


def test_a_page_of_the_guide_is_read_at_one_sitting() -> None:
    """Only the list of changes grows without an end."""
    long = {page for page in PAGES if len(text_of(page).split()) > 2_000}
    assert long <= {"changes"}


def test_every_picture_is_used_and_small() -> None:
    """Dark twins stand beside the light ones."""
    used = {picture.name for picture in PICTURES}
    there = {path.name for path in FOLDER.iterdir()}
    dark = {name for name in there if name.endswith("-dark.webp")}
    assert {name.replace("-dark.webp", "") for name in dark} <= {Path(name).stem for name in used}
    assert there - dark == used
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    assert max(sizes) <= MOST
    assert sum(sizes) <= MOST_OF_ALL
    for path in FOLDER.glob("*.webp"):
        with Image.open(path) as image:
            image.load()
            assert image.format == "WEBP"


def test_a_dark_page_has_the_dark_picture() -> None:
    """Furo hides one of the two."""
    text = linked(".. image:: tests/docs/pictures/notebook.png\n   :alt: A\n   :width: 9\n\nText\n")
    light, dark = text.split(".. image:: ")[1:]
    assert light == "notebook.png\n   :alt: A\n   :width: 9\n   :class: only-light\n\n"
    assert dark == "notebook-dark.webp\n   :alt: A\n   :width: 9\n   :class: only-dark\n\nText\n"
    assert linked(".. image:: plain.svg\n   :alt: B\n") == ".. image:: plain.svg\n   :alt: B\n"
    _, dark = linked(".. image:: sheet.webp\n   :target: _images/sheet.webp\n").split("\n\n", 1)
    assert "   :target: _images/sheet-dark.webp\n" in dark


def test_an_installed_package_has_none_of_the_pictures() -> None:
    """Neither below the package, nor elsewhere in the wheel."""
    names = {path.name for path in FOLDER.iterdir()}
    found = importlib.metadata.distributions(name="comfy-client-blocking")
    # What an sdist would hold, beside a build in this folder, has no RECORD.
    installed = [one for one in found if one.read_text("RECORD") is not None]
    assert not names & {path.name for one in installed for path in one.files or ()}
    assert not names & {path.name for path in Path(comfy_client.__file__).parent.rglob("*")}


def test_a_public_name_links_to_the_code_that_makes_it() -> None:
    """Also an alias, which does not know its module; and that code has a page."""
    places = {entry.path: sources.resolve("py", info_of(entry)) for entry in reference()}
    assert str(places["comfy_client.testing.Step"]).startswith(
        "../source/comfy_client/testing/scripting.html#line-"
    )
    shown = {f"../{sources.page(module)}.html" for module in sources.shown()}
    assert {place.partition("#")[0] for place in places.values() if place} <= shown
    assert sum(1 for place in places.values() if place) >= 140


def info_of(entry: pages.Entry) -> dict[str, str]:
    """Return what Sphinx tells of an object."""
    return {"module": entry.module.__name__, "fullname": entry.name}


def test_read_the_docs_builds_what_ci_builds() -> None:
    """With the same command."""
    command = "python -m tests.docs"
    assert command in README.with_name(".readthedocs.yaml").read_text("utf-8")
    assert command in (README.with_name(".ci") / "run").read_text("utf-8")


def test_dead_links_and_pages_without_links_are_found(tmp_path: Path) -> None:
    """A page reached from a page that is reached is reached."""
    site = {
        "index.html": '<a href="a/one.html#here">1</a> <a href="https://example.org/x">x</a>'
        '<a href="#top" id="top"></a><img src="p.png"><a href="gone.html">-</a>',
        "a/one.html": '<b id="here"></b><a href="../two.html#none">-</a><a href="mailto:a@b">',
        "two.html": '<a href="index.html?q=1#top">',
        "three.html": '<a href="index.html">',
        "genindex.html": "",
    }
    for name, text in site.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "p.png").touch()
    assert mistakes(tmp_path) == [
        "a/one.html: no anchor for the link ../two.html#none",
        "index.html: no file for the link gone.html",
        "three.html: no link leads to this page",
    ]
