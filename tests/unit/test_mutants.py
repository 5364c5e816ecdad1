"""The list of mutants: each can still be put into the code, and its tests are there."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.mutants import MUTANTS
from tests.mutants.mutant import PROJECT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_mutant_changes_one_place_into_other_python(mutant: Mutant) -> None:
    text = mutant.path().read_text(encoding="utf-8")
    changed = mutant.apply(text)
    assert changed != text
    compile(changed, mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_the_nearest_tests_of_a_mutant_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (PROJECT / "tests" / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\b", text, re.MULTILINE), test


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
