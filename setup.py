"""All metadata stands in setup.cfg, but for the README, whose links have to work elsewhere, too."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def readme() -> str:
    """Return the README with links to the files of this version in the repository."""
    config = ConfigParser()
    config.read(HERE / "setup.cfg", encoding="utf-8")
    source = re.search(r"^Source = (\S+)", config["metadata"]["project_urls"], re.MULTILINE)[1]
    version = re.search(r'"(.+)"', (HERE / "comfy_client/_version.py").read_text("utf-8"))[1]
    text = (HERE / "README.rst").read_text("utf-8")
    text = text.replace("image:: tests/", f"image:: {source}/raw/v{version}/tests/")
    return text.replace("<comfy_client/", f"<{source}/blob/v{version}/comfy_client/")


setup(long_description=readme())
