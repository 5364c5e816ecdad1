"""Changes to what Sphinx reads, and links from names to the reference."""

from __future__ import annotations

import builtins
from typing import Any, get_type_hints

import attrs
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from comfy_client import models
from tests.docs import sources
from tests.docs.pages import target_of


class LinkNames(SphinxTransform):
    """Link each name of the package that stands in a text to its place in the reference."""

    default_priority = 600

    def apply(self, **_: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            target = target_of(literal.astext())
            inside = (nodes.title, nodes.reference, addnodes.pending_xref)
            if target is None or literal.get("classes") or isinstance(literal.parent, inside):
                continue
            link = addnodes.pending_xref(
                "",
                refdomain="py",
                reftype="obj",
                reftarget=target,
                refexplicit=True,
                refwarn=True,
                refdoc=self.env.docname,
            )
            literal.replace_self(link)
            link += literal


class LeaveBuiltins(SphinxTransform):
    """Keep ``type`` in a signature from being looked up as an attribute of that name."""

    default_priority = 600

    def apply(self, **_: Any) -> None:
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link["reftype"] == "class" and hasattr(builtins, link["reftarget"]):
                link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LinkNames)
    app.add_transform(LeaveBuiltins)
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before napoleon
    app.connect("html-collect-pages", sources.collect)
    app.connect("html-page-context", _collapse, priority=400)  # before furo
    for kind in filter(attrs.has, vars(models).values()):
        for holder in (kind, kind.__init__):  # without Annotated: how values are checked
            holder.__annotations__ = get_type_hints(holder)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _as_text(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon for the type of an attribute."""
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]  # an empty comment


def _collapse(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Leave the objects of other groups out of the sidebar, which furo writes on every page."""
    if (whole := context.get("toctree")) is not None:
        context["toctree"] = lambda **options: whole(**{**options, "collapse": True})
