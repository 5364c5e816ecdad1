"""When a bad answer about a hosted job is believed."""

from __future__ import annotations

from comfy_client.hosted.evidence import (
    FIRST_PAUSE,
    GRACE,
    LONGEST_PAUSE,
    LONGEST_PAUSE_OF_OLD,
    LOOKS,
    OLD,
    PAUSE_BY_JOB,
    REFUSALS,
    STANDS,
    Evidence,
)


def known(now: float = 0.0) -> Evidence:
    """The evidence about a job that the server has shown."""
    found = Evidence(now)
    assert found.note_status("running")
    return found


def test_the_pauses_grow_to_a_second_and_to_two_for_old_jobs() -> None:
    one = Evidence(0.0)
    pauses = [one.next_pause(1.0, 1) for _ in range(40)]
    assert pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    pauses = [one.next_pause(OLD + 1.0, 1) for _ in range(40)]
    assert pauses[-1] == LONGEST_PAUSE_OF_OLD


def test_many_jobs_share_the_questions() -> None:
    assert Evidence(0.0).next_pause(0.0, 51) == 50 * PAUSE_BY_JOB


def test_a_status_is_news_once() -> None:
    one = Evidence(0.0)
    assert [one.note_status(status) for status in ("queued", "queued", "running")] == [
        True,
        False,
        True,
    ]


def test_expired_is_believed_after_two_seconds_and_three_looks() -> None:
    one = known()
    assert not one.note_absence(1.0)
    assert not one.note_absence(1.0 + STANDS + 1.0)
    assert one.note_absence(1.0 + STANDS + 1.0)
    assert one.absences == LOOKS


def test_many_looks_within_two_seconds_prove_nothing() -> None:
    one = known()
    assert not any(one.note_absence(1.0 + 0.001 * look) for look in range(100))
    assert one.note_absence(1.0 + STANDS)


def test_a_good_answer_in_between_begins_anew() -> None:
    one = known()
    for _ in range(2):
        assert not one.note_absence(1.0)
        assert not one.note_absence(1.0 + STANDS)
        one.note_status("running")
    assert one.absent_since is None


def test_a_job_that_was_never_seen_has_some_seconds_to_appear() -> None:
    """It may not be known right after the 201."""
    one = Evidence(10.0)
    looks = [one.note_absence(10.0 + 0.5 * look) for look in range(10)]
    assert not any(looks)
    assert one.note_absence(10.0 + GRACE)


def test_no_usable_answer_is_borne_for_as_long_as_patience() -> None:
    one = known()
    assert not one.note_bad_answer(5.0, 40.0)
    assert not one.note_bad_answer(44.9, 40.0)
    assert one.note_bad_answer(45.0, 40.0)
    one.note_status("running")
    assert not one.note_bad_answer(46.0, 40.0)


def test_an_absence_is_an_answer() -> None:
    one = known()
    assert not one.note_bad_answer(5.0, 40.0)
    one.note_absence(44.0)
    assert not one.note_bad_answer(45.0, 40.0)


def test_three_refusals_in_a_row_end_the_wait() -> None:
    one = known()
    assert [one.note_refusal() for _ in range(REFUSALS)] == [False, False, True]
    one = known()
    one.note_refusal()
    one.note_refusal()
    one.note_bad_answer(1.0, 40.0)
    assert not one.note_refusal()
    one.note_refusal()
    one.note_absence(2.0)
    assert not one.note_refusal()
