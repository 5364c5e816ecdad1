"""When a bad answer about a hosted job is believed."""

from __future__ import annotations

from comfy_client.hosted.evidence import LOOKS, REFUSALS, Evidence
from comfy_client.timing import Timing

TIMES = Timing()


def known(now: float = 0.0) -> Evidence:
    """The evidence about a job that the server has shown."""
    found = Evidence(now)
    assert found.note_status("running")
    return found


def test_the_pauses_grow_to_a_second_and_to_two_for_old_jobs() -> None:
    one = Evidence(0.0)
    pauses = [one.next_pause(1.0, 1) for _ in range(40)]
    assert pauses[0] == TIMES.hosted_poll
    assert pauses == sorted(pauses)
    assert pauses[-1] == TIMES.hosted_poll_cap
    pauses = [one.next_pause(TIMES.hosted_late + 1.0, 1) for _ in range(40)]
    assert pauses[-1] == TIMES.hosted_poll_late


def test_times_of_a_client_apply_to_its_jobs() -> None:
    """A subclass of it may set them, as for any other server."""
    times = Timing(hosted_poll=0.2, hosted_poll_cap=0.25, hosted_new=0.5, hosted_gone=0.1)
    one = Evidence(0.0, times)
    assert [one.next_pause(0.0, 1) for _ in range(3)] == [0.2, 0.25, 0.25]
    assert [one.note_absence(at) for at in (0.3, 0.41, 0.49, 0.5)] == [False, False, False, True]


def test_many_jobs_share_the_questions() -> None:
    assert Evidence(0.0).next_pause(0.0, 51) == 50 * TIMES.hosted_share


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
    assert not one.note_absence(1.0 + TIMES.hosted_gone + 1.0)
    assert one.note_absence(1.0 + TIMES.hosted_gone + 1.0)
    assert one.absences == LOOKS


def test_many_looks_within_two_seconds_prove_nothing() -> None:
    one = known()
    assert not any(one.note_absence(1.0 + 0.001 * look) for look in range(100))
    assert one.note_absence(1.0 + TIMES.hosted_gone)


def test_a_good_answer_in_between_begins_anew() -> None:
    one = known()
    for _ in range(2):
        assert not one.note_absence(1.0)
        assert not one.note_absence(1.0 + TIMES.hosted_gone)
        one.note_status("running")
    assert one.absent_since is None


def test_a_job_that_was_never_seen_has_some_seconds_to_appear() -> None:
    """It may not be known right after the 201."""
    one = Evidence(10.0)
    looks = [one.note_absence(10.0 + 0.5 * look) for look in range(10)]
    assert not any(looks)
    assert one.note_absence(10.0 + TIMES.hosted_new)


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
