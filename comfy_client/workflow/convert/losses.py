"""Links to growing groups of inputs that the frontend itself loses when it opens a file.

While opening a file, the frontend identifies a link by the number of its slot, and lays out the
inputs of a chosen option anew.  A link may then occupy the slot of another input until its own has
grown, and is dropped when that input gets its own link.  The frontend shows the node without the
link, and sends it so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field

from .saved_file import SavedInput


@define(eq=False)
class Layout:
    """The order in which the frontend makes a node's inputs: first all, then some groups anew.

    Attributes:
        first: The names of all inputs, in order, before the file is read.
        groups: For each group that is made anew, the prefix of its names, and the names.
    """

    first: list[str] = field(factory=list)
    groups: list[tuple[str, list[str]]] = field(factory=list)


def lost_links(
    saved: Sequence[SavedInput],
    layout: Layout,
    choosers: set[str],
    grown: Mapping[str, str | None],
) -> set[int]:
    """Return the ids of links that the frontend loses when it opens the file.

    Args:
        saved: The inputs in the file.
        layout: The inputs by the definition.
        choosers: The names of the widgets that choose among groups.
        grown: For each input that a growing group can have, the next one; ``None``: the last.
    """
    given = {each.name for each in saved}
    names = [*dict.fromkeys([*layout.first, *(each.name for each in saved)])]
    wanted = {each.link: each.name for each in saved if each.link is not None}
    # The slot that each link occupies.
    stands = {
        link: names[slot] if slot < len(names) else ""
        for slot, link in enumerate(each.link for each in saved)
        if link is not None
    }
    plain = {link: name for link, name in wanted.items() if name not in grown}
    if any(name.rpartition(".")[0] in choosers for name in given - grown.keys()):
        stands |= plain
    lost: set[int] = set()
    for prefix, inside in layout.groups:
        gone = {link for link, name in stands.items() if name.startswith(prefix)}
        gone = {link for link in gone if stands[link] not in inside}
        lost |= gone
        stands = {link: name for link, name in stands.items() if link not in gone}
        names = [name for name in names if not name.startswith(prefix)] + inside
        names += [each for each in map(grown.get, stands.values()) if each and each not in names]
    return lost | _settle(wanted, stands, {*names}, grown)


def _settle(
    wanted: Mapping[int, str],
    stands: dict[int, str],
    names: set[str],
    grown: Mapping[str, str | None],
) -> set[int]:
    """Move each link to its own input, pass by pass, while groups grow; return the links lost."""
    lost: set[int] = set()
    for _ in wanted:
        moved = {
            link: wanted[link]
            for link, name in stands.items()
            if wanted[link] in names and name != wanted[link]
        }
        if not moved:
            break
        taken = {*moved.values()}
        for link, name in [*stands.items()]:
            if name in taken and wanted[link] not in names:
                lost.add(link)
                del stands[link]
        stands |= moved
        names |= {each for each in map(grown.get, moved.values()) if each}
    return lost
