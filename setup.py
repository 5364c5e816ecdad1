"""All metadata stands in setup.cfg, but for the README, whose links have to work elsewhere, too."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
LINK = re.compile(r"`([^`<]+?)\s+<comfy_client/[^>]+>`__")
IMAGE = re.compile(r"^\.\. image:: tests/.*\n(?:   .*\n)*\n", re.MULTILINE)


def readme() -> str:
    """Return the README with links to the files of this version in the repository.

    If setup.cfg names no repository yet, there are no such links, nor pictures.
    """
    config = ConfigParser()
    config.read(HERE / "setup.cfg", encoding="utf-8")
    urls = config["metadata"].get("project_urls", "")
    text = (HERE / "README.rst").read_text("utf-8")
    source = re.search(r"^Source = (\S+)", urls, re.MULTILINE)
    if source is None:
        return IMAGE.sub("", LINK.sub(r"\1", text))
    version = re.search(r'"(.+)"', (HERE / "comfy_client/_version.py").read_text("utf-8"))[1]
    text = text.replace("image:: tests/", f"image:: {source[1]}/raw/v{version}/tests/")
    return text.replace("<comfy_client/", f"<{source[1]}/blob/v{version}/comfy_client/")


setup(long_description=readme())
