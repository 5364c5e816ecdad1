"""Defects that break the promises about jobs of Comfy API v2."""

from __future__ import annotations

from .mutant import Mutant

HOSTED_JOBS: tuple[Mutant, ...] = (
    # -- submitted once -----------------------------------------------------------------
    Mutant(
        "Y01",
        "hosted/sending.py",
        "graph, key=key, label=label",
        'graph, key=f"{key}-{deadline.at:.6f}", label=label',
        "model/test_hosted.py",
        "a submission that is sent again has a new key, and runs twice",
    ),
    Mutant(
        "Y02",
        "hosted/sending.py",
        "            except NotFound:\n                continue\n            return True",
        "            except NotFound:\n                return True\n            return True",
        "model/test_hosted.py",
        "a key is used again at a proxy that was restarted and forgot it, and the job runs twice",
    ),
    Mutant(
        "Y03",
        "hosted/sending.py",
        *(
            f"not self.has_kept([{name}] if {name} else [], limit):\n"
            '                        why = "a proxy that was restarted may have forgotten it"\n'
            f"                        if {name} is not None:\n"
            "                            break\n"
            f"                    if is_known or not (self.remembers or {name}):\n"
            for name in ("witness", "self._witness")
        ),
        "model/test_kept.py",
        "a job of after the restart of a proxy shows that it was not restarted",
    ),
    Mutant(
        "Y04",
        "hosted/sending.py",
        "                    found = self.find(key, until)\n",
        "                    found = None\n",
        "model/test_hosted.py",
        "a job that the list shows by its label is uncertain",
    ),
    Mutant(
        "Y05",
        "hosted/sending.py",
        "            if not job.label:\n",
        "            if job.label is None:\n",
        "model/test_kept.py",
        "a job whose label a gateway dropped is uncertain, though its graph has the mark",
    ),
    Mutant(
        "Y06",
        "hosted/sending.py",
        "(exc.status >= 500 or exc.status == 408)",
        "exc.status == 408",
        "model/test_hosted.py",
        "a submission that a gateway answered with 502 is told as refused, and runs",
    ),
    Mutant(
        "Y07",
        "hosted/sending.py",
        "if reason == _KEY_KNOWN:\n                    is_known, why",
        "if False:\n                    is_known, why",
        "model/test_hosted.py",
        "a job is uncertain as its key is known, though the list is about to show it",
    ),
    # -- the end of a job ---------------------------------------------------------------
    Mutant(
        "Y08",
        "hosted/evidence.py",
        "self.absences >= LOOKS and stands",
        "True",
        "model/test_hosted.py",
        "a job that moves from the queue to the history is lost",
    ),
    Mutant(
        "Y09",
        "hosted/evidence.py",
        "is_new = self.status is None and asked_at - self.began < self.timing.hosted_new",
        "is_new = False",
        "model/test_hosted.py",
        "a job that a service does not list yet is lost",
    ),
    Mutant(
        "Y10",
        "hosted/evidence.py",
        "return now - self.bad_since >= patience",
        "return True",
        "model/test_hosted.py",
        "a job ends at the first bad answer",
    ),
    Mutant(
        "Y11",
        "hosted/job_poller.py",
        "            if evidence.was_cancelled:\n",
        "            if False:\n",
        "model/test_hosted.py",
        "a waiting job that was cancelled is lost, as the proxy calls it expired",
    ),
    # -- cancelled ----------------------------------------------------------------------
    Mutant(
        "Y12",
        "hosted/job_poller.py",
        "return isinstance(state.end_event, ExecutionInterrupted)",
        "return True",
        "model/test_hosted.py",
        "cancel() says that it stopped a job that succeeded",
    ),
    Mutant(
        "Y13",
        "hosted/job_poller.py",
        '        self._watch(one, evidence, was_queued=job.status == "queued")\n',
        "",
        "model/test_hosted.py",
        "cancel() says that a job had ended, which goes on",
    ),
    # -- events -------------------------------------------------------------------------
    Mutant(
        "Y14",
        "hosted/job_poller.py",
        "(stream.is_open or stream.is_over or now < stream.not_before)",
        "(stream.is_over or now < stream.not_before)",
        "model/test_hosted.py",
        "a second stream of a job starves the first",
    ),
    # -- one side of a pair, the other of which was tested ------------------------------
    Mutant(
        "K14",
        "hosted/job_poller.py",
        "stream.is_over = stream.has_ended",
        "stream.is_over = True",
        "unit/test_hosted_poller.py",
        "a stream that a proxy ends early is not opened again: no more progress",
    ),
    Mutant(
        "K15",
        "hosted/job_poller.py",
        "away = exc if is_away(exc) else None",
        "away = exc",
        "unit/test_hosted_poller.py",
        "a job that is refused has its error told of all others",
    ),
    # -- chosen by a second reader ------------------------------------------------------
    Mutant(
        "K38",
        "hosted/sending.py",
        "pages > 0 and not page.truncated and len",
        "pages > 0 and len",
        "unit/test_hosted_sending.py",
        "a job is run twice, since a list that was cut lacked it",
    ),
    Mutant(
        "K39",
        "hosted/job_poller.py",
        "free = MOST_STREAMS - sum(stream.is_open for stream in self._streams.values())",
        "free = MOST_STREAMS",
        "unit/test_hosted_poller.py",
        "each job has a stream, until the server refuses all",
    ),
    Mutant(
        "K40",
        "hosted/job_poller.py",
        "state.check_at = min(due, state.check_at)",
        "pass",
        "unit/test_hosted_poller.py",
        "the end of a job whose stream stops is found later",
    ),
    Mutant(
        "K41",
        "hosted/models.py",
        "if self._files and self._files[-1].node_id != output.node_id:",
        "if False:",
        "unit/test_hosted_translation.py",
        "outputs are told when the next node makes progress, if it does",
    ),
    Mutant(
        "K50",
        "hosted/job_poller.py",
        "        state.search_by_mark = False\n        if not state.graph and",
        "        if not state.graph and",
        "unit/test_hosted_poller.py",
        "a job that is attached to gets no events",
    ),
    Mutant(
        "K51",
        "hosted/job_poller.py",
        "            evidence.was_cancelled = False\n            self.tracker.poll_now(one)",
        "            self.tracker.poll_now(one)",
        "unit/test_hosted_poller.py",
        "a job that was not cancelled and is gone ends as interrupted, not as lost",
    ),
    Mutant(
        "K52",
        "hosted/sending.py",
        "timeout=deadline.left()), key)\n        except NotFound:",
        "timeout=deadline.left()), key)\n        except ApiError:",
        "unit/test_hosted_sending.py",
        "a job whose mark cannot be read for a moment is sent twice",
    ),
)
