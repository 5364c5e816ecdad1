"""The list of mutants: each can still be put into the code, and its tests are there."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.mutants import MUTANTS
from tests.mutants.mutant import PROJECT, Mutant


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_a_mutant_changes_one_place_into_other_python(file: str) -> None:
    for mutant in MUTANTS:
        if mutant.file == file:
            text = mutant.path().read_text(encoding="utf-8")
            changed = mutant.apply(text)
            assert changed != text, mutant.id
            compile(changed, mutant.id, "exec")


def test_the_nearest_tests_of_a_mutant_exist() -> None:
    for mutant in MUTANTS:
        assert mutant.tests, mutant.id
        for test in mutant.tests:
            file, _, name = test.partition("::")
            text = (PROJECT / "tests" / file).read_text(encoding="utf-8")
            defined = not name or re.search(rf"^def {name}\b", text, re.MULTILINE)
            assert defined, (mutant.id, test)


def test_no_two_mutants_have_one_name_or_one_change() -> None:
    assert max(Counter(mutant.id for mutant in MUTANTS).values()) == 1
    changes = Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS)
    assert max(changes.values()) == 1


def test_a_place_that_is_gone_or_not_the_only_one_is_an_error() -> None:
    mutant = Mutant("X", "values.py", "a", "b", "unit/test_values.py", "nothing")
    assert mutant.apply("cat") == "cbt"
    for text in ("dog", "banana"):
        with pytest.raises(ValueError, match="not once"):
            mutant.apply(text)
