"""The documentation site: ``python -m tests.docs [FOLDER]`` builds it; the extra ``[docs]``.

The guide and the README are its pages, the docstrings its reference.

Modules:
    pages: The pages that Sphinx reads.
    conf: The settings of Sphinx.
    extension: Changes to what Sphinx reads, and links from names to the reference.
    sources: Where the code of each public object stands, and pages that show it.
    links: Dead links and unreachable pages of the finished site.
    take_pictures: The pictures, taken of the embedded server.
"""
