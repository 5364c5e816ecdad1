"""Schedules that failed once, each by a defect that is mended."""

from __future__ import annotations

import pytest

from comfy_client import Result
from tests.model.fleet import PoolPlan, Task
from tests.model.schedule import Act, Fault, Prompt, Schedule
from tests.model.test_client import play as replay
from tests.model.test_hosted import HostedPlan, Submission
from tests.model.test_hosted import play as replay_hosted
from tests.model.test_map import MapPlan
from tests.model.test_map import play as replay_map
from tests.model.test_pool import play as replay_pool
from tests.model.test_sweep import Life, SweepPlan
from tests.model.test_sweep import play as replay_sweep


def test_a_first_request_without_api_may_be_answered_after_another() -> None:
    """The first was refused (405) below ``/api`` once the second had found the routes."""
    replay(
        Schedule(
            seed=1,
            version="2024-03",
            prompts=(Prompt(), Prompt(at=0.3)),
            faults=(Fault(at=0.0, kind="slow", lasts=0.2, route="POST", value=0.5),),
        )
    )


def test_an_end_event_repeated_before_the_id_is_known_is_published_once() -> None:
    replay(
        Schedule(
            seed=1,
            version="0.3.40",
            prompts=(Prompt(how="run", seconds=0.1),),
            faults=(
                Fault(at=0.0, kind="repeat", lasts=2.0),
                Fault(at=0.0, kind="slow", lasts=2.0, route="POST", value=3.0),
            ),
        )
    )


def test_an_end_in_a_message_that_breaks_off_is_no_success() -> None:
    replay(
        Schedule(
            seed=1465,
            prompts=(Prompt(seconds=2.0),),
            acts=(Act(at=1.0, what="cancel"),),
            faults=(Fault(at=1.5, kind="garble"),),
        )
    )


def test_a_deaf_socket_is_no_wait_without_end_where_http_refuses_for_good() -> None:
    replay(
        Schedule(
            seed=1,
            prompts=(Prompt(seconds=5.0),),
            faults=(
                Fault(at=0.5, kind="deafen"),
                Fault(at=1.0, kind="nonsense", lasts=1e4),
            ),
        )
    )


def test_a_page_below_api_is_no_sign_of_such_routes() -> None:
    """A proxy showed it while the server started, which has none."""
    replay(
        Schedule(
            seed=1,
            version="2024-03",
            prompts=(Prompt(),),
            faults=(Fault(at=0.0, kind="nonsense", lasts=1.0),),
            goes_on=True,
        )
    )


def test_a_prompt_that_left_a_busy_queue_is_no_wait_without_end_where_history_is_refused() -> None:
    replay(
        Schedule(
            seed=1,
            busy=True,
            prompts=(Prompt(seconds=2.0),),
            faults=(
                Fault(at=0.5, kind="deafen"),
                Fault(at=0.5, kind="refuse", lasts=1e4, route="/history", value=403),
            ),
        )
    )


def test_a_loop_that_ends_as_its_client_is_closed_leaves_no_prompt_in_the_queue() -> None:
    """The end of ``with`` cut the request off by which ``close()`` deleted them."""
    replay_map(
        MapPlan(
            seed=283,
            tasks=(Task(seconds=0.0), Task(seconds=0.5), Task(seconds=4.0), Task(), Task()),
            in_flight=3,
            close=2.55,
        )
    )


def test_a_result_comes_after_the_end_event_that_was_kept_for_its_id() -> None:
    """The answer to the submission told the id while that event was yet to be handed on."""
    replay(
        Schedule(
            seed=1509,
            preempt=0.02,
            version="0.3.40",
            prompts=(Prompt(at=0.2, cached=True),),
            faults=(
                Fault(at=0.214, kind="lose", lasts=17.12, route="/queue"),
                Fault(at=0.209, kind="drop", lasts=1.15),
            ),
        )
    )


def test_an_end_that_a_gap_swallowed_is_no_wait_without_end_where_http_refuses_for_good() -> None:
    replay(
        Schedule(
            seed=795,
            preempt=0.02,
            clients=2,
            busy=True,
            prompts=(
                Prompt(at=0.73, client=1, how="run", seconds=0.42),
                Prompt(at=0.91, client=1, seconds=7.19, ticks=30),
            ),
            acts=(
                Act(at=1.391, what="cancel", prompt=1, client=1),
                Act(at=1.664, what="cancel", client=1),
            ),
            faults=(
                Fault(at=0.747, kind="proxy", lasts=2.77),
                Fault(at=0.856, kind="break", lasts=14.44),
                Fault(at=0.91, kind="refuse", lasts=1e4, route="/api", value=401),
            ),
        )
    )


def test_a_prompt_is_lost_though_the_jobs_list_alone_is_refused() -> None:
    replay(
        Schedule(
            seed=1002057,
            busy=True,
            prompts=(Prompt(seconds=5.072),),
            faults=(
                Fault(at=4.448, kind="kill"),
                Fault(at=0.44, kind="refuse", lasts=1e4, route="/api/jobs", value=403),
            ),
        )
    )


def test_a_lost_prompt_is_no_wait_without_end_where_the_queue_is_refused_for_good() -> None:
    replay(
        Schedule(
            seed=1014766,
            busy=True,
            prompts=(Prompt(seconds=5.059),),
            faults=(
                Fault(at=0.0, kind="refuse", lasts=1e4, route="/queue", value=500),
                Fault(at=2.17, kind="kill"),
            ),
        )
    )


def test_a_job_that_attaches_as_its_client_closes_is_not_outstanding() -> None:
    replay(
        Schedule(
            seed=1016663,
            preempt=0.5,
            version="2024-03",
            clients=2,
            prompts=(Prompt(at=0.64, how="follow", seconds=0.05, ticks=30),),
            acts=(Act(at=0.737, what="attach"), Act(at=0.739, what="again")),
        )
    )


def test_prompts_behind_one_with_events_are_not_given_up() -> None:
    """Its socket, which was not deaf, was dialled again, and the one that waited was refused."""
    world = replay(
        Schedule(
            seed=1,
            prompts=(Prompt(seconds=1500.0, ticks=300), Prompt(at=0.5)),
            faults=(Fault(at=2.0, kind="refuse", lasts=1e4, route="/api", value=403),),
        )
    )
    results = [wait.outcome for wait in world.waits]
    assert [isinstance(one, Result) and one.complete for one in results] == [True, True]


def test_prompts_behind_a_running_one_are_waited_for_after_a_gap() -> None:
    world = replay(
        Schedule(
            seed=1,
            prompts=(Prompt(seconds=1500.0, ticks=300), Prompt(at=0.5)),
            faults=(
                Fault(at=2.0, kind="refuse", lasts=1e4, route="/api", value=403),
                Fault(at=3.0, kind="close", value=1001),
            ),
        )
    )
    assert all(isinstance(wait.outcome, Result) for wait in world.waits)


def test_a_redialled_socket_has_time_though_http_refuses() -> None:
    """The prompts were given up in the moment in which it was not deaf any more."""
    world = replay(
        Schedule(
            seed=1,
            prompts=(Prompt(seconds=1000.0, ticks=200), Prompt(at=0.5)),
            faults=(
                Fault(at=2.0, kind="refuse", lasts=1e4, route="/api", value=403),
                Fault(at=3.0, kind="break", lasts=1.0),
            ),
        )
    )
    assert all(isinstance(wait.outcome, Result) for wait in world.waits)


def test_a_long_prompt_is_not_given_up_where_the_queue_alone_is_refused() -> None:
    """A proxy may let through what a client needs to submit and to read records, and no socket."""
    world = replay(
        Schedule(
            seed=1,
            polls=True,
            prompts=(Prompt(seconds=1500.0),),
            faults=(Fault(at=0.0, kind="refuse", lasts=1e4, route="/queue", value=403),),
        )
    )
    assert all(isinstance(wait.outcome, Result) for wait in world.waits)


def test_a_prompt_that_is_found_while_it_is_asked_about_is_not_taken_for_deleted() -> None:
    """Its cancellation found the server's id while history was asked about ours."""
    replay(
        Schedule(
            seed=711405,
            version="0.3.40",
            clients=2,
            prompts=(Prompt(at=1.22), Prompt(at=0.13, how="follow", seconds=2.59)),
            acts=(
                Act(at=1.416, what="cancel", prompt=1),
                Act(at=1.219, what="again", prompt=1),
            ),
            faults=(Fault(at=0.136, kind="proxy", lasts=1.22),),
        )
    )


def test_a_prompt_that_ends_as_the_look_up_for_it_gives_up_was_submitted() -> None:
    """Its events came in the last pause; it was counted as refused, and as succeeded."""
    world = replay(
        Schedule(
            seed=5833,
            prompts=(Prompt(at=0.24), Prompt(seconds=10.15)),
            faults=(Fault(at=0.18, kind="proxy", lasts=120.0),),
        )
    )
    assert all(isinstance(wait.outcome, Result) for wait in world.waits)


def test_a_job_that_was_being_sent_when_ctrl_c_came_runs_nowhere_else() -> None:
    """Its server turns out not to have it, after the loop was left."""
    replay_pool(
        PoolPlan(
            seed=3759,
            tasks=(
                Task(seconds=0.5),
                Task(seconds=0.5),
                Task(),
                Task(seconds=0.16),
                Task(),
            ),
            faults=(
                Fault(at=0.66, kind="unavailable", lasts=7.6, route="POST /api/prompt", server=1),
            ),
            way="unordered",
            stop=1.92,
            mode="first_free",
        )
    )


def test_a_client_that_closes_as_its_server_becomes_ready_is_no_defect() -> None:
    replay_sweep(
        SweepPlan(
            seed=501,
            servers=2,
            seconds=4.0,
            lives=(Life(step=24, pause=3.0), Life(step=23)),
            faults=(Fault(at=1.08, kind="break"),),
        )
    )


def test_a_job_that_is_lost_while_its_user_leaves_runs_nowhere_else() -> None:
    """It would be taken back from the server that went away, not from the one it moved to."""
    replay_pool(
        PoolPlan(
            seed=55,
            tasks=(
                Task(at=10.09, seconds=22.9),
                Task(seconds=24.74, fails=True),
                Task(seconds=0.0, fails=True),
                Task(at=1.06, seconds=0.5),
                Task(seconds=8.12),
            ),
            faults=(Fault(at=1.67, kind="freeze"), Fault(at=6.54, kind="away")),
            stop=7.01,
            mode="round_robin",
            on_lost="retry",
            on_failed="move",
            patience=4.0,
            goes_on=True,
        )
    )


def test_a_cancelled_job_whose_server_died_before_it_began_is_not_lost() -> None:
    """It ends as cancelled: nothing of it ran."""
    replay_pool(
        PoolPlan(
            seed=1593,
            servers=3,
            tasks=(Task(), Task(), Task(), Task(cancel=1.11)),
            faults=(Fault(at=0.21, kind="kill", server=2),),
        )
    )


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_published_end_stands_if_the_server_goes_away(on_lost: str) -> None:
    """The client was about to ask for its outputs."""
    replay_pool(
        PoolPlan(
            seed=3282,
            tasks=(Task(), Task(seconds=4.12), Task(), Task()),
            faults=(Fault(at=2.98, kind="away", lasts=0.2), Fault(at=6.08, kind="away")),
            patience=0.5,
            on_lost=on_lost,
        )
    )


def test_a_job_that_an_away_server_did_not_begin_may_fail_there_too() -> None:
    """It was sent to another server, whose failure counts; the first one ran it unheard."""
    replay_pool(
        PoolPlan(
            seed=118350086697403,
            servers=4,
            tasks=(
                *(Task(seconds=0.0), Task(seconds=0.0), Task(at=11.78, seconds=0.5)),
                *(Task(seconds=0.0, cancel=0.0), Task(at=10.83, seconds=0.0)),
                *(Task(seconds=0.5, fails=True), Task(seconds=5.51)),
            ),
            faults=(
                Fault(at=7.43, kind="break", lasts=0.2, value=0.2, server=3),
                Fault(at=0.88, kind="away", lasts=5.96, value=5.96, server=2),
            ),
            mode="round_robin",
            patience=4.0,
            in_flight=3,
        )
    )


def test_a_user_who_has_left_a_pool_interrupts_nothing() -> None:
    replay_pool(
        PoolPlan(
            seed=50688209218407,
            servers=4,
            tasks=(
                *(Task(seconds=2.01), Task(at=0.26, seconds=3.31)),
                *(Task(at=6.47, seconds=0.0, cancel=6.48), Task(seconds=0.0), Task(seconds=0.5)),
            ),
            faults=(Fault(at=0.89, kind="break", lasts=1.0, value=1.0, server=2),),
            way="map",
            stop=4.42,
            mode="first_free",
            on_lost="retry",
            patience=0.5,
            in_flight=3,
        )
    )


def test_a_key_is_not_used_again_because_a_later_job_is_listed() -> None:
    """The proxy had forgotten the key; that it listed a job of after its restart said nothing."""
    replay_hosted(
        HostedPlan(
            seed=1762,
            prompts=(Submission(at=0.19), Submission(at=1.62)),
            faults=(Fault(at=0.219, kind="kill"),),
        )
    )


def test_a_job_whose_label_a_gateway_dropped_is_found_by_its_mark() -> None:
    """The list was asked for that label alone, and an empty label counted as another one."""
    world = replay_hosted(
        HostedPlan(
            seed=565,
            surface="old",
            prompts=(Submission(at=3.86), Submission()),
            faults=(Fault(at=3.819, kind="drop", lasts=2.77),),
        )
    )
    assert all(isinstance(wait.outcome, Result) for wait in world.waits)


def test_a_server_whose_socket_is_deaf_gets_jobs_though_others_had_filled_its_queue() -> None:
    replay_pool(
        PoolPlan(
            seed=4364,
            tasks=(
                *(Task(seconds=0.0), Task(), Task(seconds=8.55)),
                *(Task(seconds=19.79), Task()),
            ),
            faults=(Fault(at=2.74, kind="leave"), Fault(at=7.14, kind="break")),
            way="map",
            in_flight=1,
            goes_on=True,
        )
    )


def test_a_prompt_that_arrives_while_its_client_is_closed_does_not_run() -> None:
    replay_map(MapPlan(seed=14586, tasks=(Task(seconds=4.0), Task()), close=0.06))


def test_a_new_job_is_not_lost_as_slow_answers_say_late_that_it_was_not_known() -> None:
    replay_hosted(
        HostedPlan(
            seed=9002041,
            surface="serverless",
            shy=4.0,
            prompts=(Submission(at=5.28),),
            faults=(Fault(at=7.21, kind="slow", lasts=26.42, value=3.0),),
        )
    )
