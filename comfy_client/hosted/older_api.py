"""Comfy Cloud's older API, for reading only: nodes, models, jobs, queue, features, statistics.

It is ComfyUI's own API with a key in ``X-API-Key``.  The client never uses it to submit, cancel or
interrupt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..credentials import BearerCredentials, EnvCredentials, HeaderCredentials
from ..errors import ClientClosed, ComfyError, NotFound, NotSupported
from ..routes import Routes
from ..transport.deadline import Deadline, limited_silence
from ..transport.http import Http
from ..transport.pieces import JsonMember
from ..transport.response import Dialect, Response
from ..values import table_at
from .dialect import refusal
from .models import has_mark
from .routes import HostedRoutes

#: The routes that are requested, all with ``GET``; ``*`` stands for a name.
READ: Final = (
    "/object_info",
    "/object_info/*",
    "/models",
    "/models/*",
    "/experiment/models",
    "/experiment/models/*",
    "/jobs",
    "/jobs/*",
    "/queue",
    "/features",
    "/system_stats",
)
#: The header with the key.
KEY_HEADER: Final = "X-API-Key"
#: How many of the latest jobs are searched for a mark.
_MOST_READ: Final = 20


def is_read(method: str, route: str) -> bool:
    """Return whether a request is one of those in :data:`READ`, which the older API answers."""
    folder, _, name = route.removeprefix("/api").rpartition("/")
    whole = f"{folder}/{name}"
    return method == "GET" and (whole in READ or (bool(name) and f"{folder}/*" in READ))


def check_read(method: str, route: str) -> None:
    """Raise :class:`NotSupported` for every request that is not one of those in :data:`READ`."""
    if not is_read(method, route):
        raise NotSupported(
            f"Comfy Cloud's older API is used for reading only, and not for {method} {route:.200}"
        )


#: The dialect of Comfy Cloud's older API.
CLOUD_V1: Final = Dialect(refusal=refusal, check_route=check_read, has_api_prefix=True)


def v1_credentials(held: object) -> HeaderCredentials | EnvCredentials | None:
    """Convert credentials of Comfy API v2 to those of the older API; None if there are none."""
    if isinstance(held, BearerCredentials):
        return HeaderCredentials({KEY_HEADER: held.token})
    if isinstance(held, EnvCredentials):
        return EnvCredentials(held.variable, "header", KEY_HEADER)
    return None


class CloudHttp(Http):
    """An ``Http`` for Comfy Cloud, which sends the requests in :data:`READ` to its older API.

    Attributes:
        v1: The requests to the older API.
    """

    v1: Http

    def request(self, method: str, route: str, **kw: Any) -> Response:
        """Send a request, and return its whole answer: see :meth:`Http.request`."""
        if is_read(method, route):
            return self.v1.request(method, route, **kw)
        return super().request(method, route, **kw)

    def members(self, route: str, **kw: Any) -> Iterator[JsonMember]:
        """Yield the members of an answer: see :meth:`Http.members`."""
        if is_read("GET", route):
            return self.v1.members(route, **kw)
        return super().members(route, **kw)

    def record(self, recorder: Any) -> None:
        """Record every request to both APIs from now on; None ends the recording."""
        super().record(recorder)
        self.v1.record(recorder)

    def close(self) -> None:
        """End all requests in progress to both APIs."""
        super().close()
        self.v1.close()

    def after_fork(self) -> None:
        """Renew connections and locks in the child of a fork."""
        super().after_fork()
        self.v1.after_fork()


class JobSearch:
    """A search for the job of an unanswered submission, by its mark, in the older API's job list.

    It is not certain that this list has the jobs that were submitted over Comfy API v2.
    """

    def __init__(self, v1: Http, routes: HostedRoutes) -> None:
        self._v1 = Routes(v1)
        self._routes = routes

    def __call__(self, key: str, deadline: Deadline) -> str | None:
        """Return the id of the job that was submitted under a key; None if it is not found."""
        with limited_silence(deadline.left(self._routes.http.total_timeout)):
            try:
                jobs = self._v1.get_jobs(limit=_MOST_READ).jobs
            except ClientClosed:
                raise
            except ComfyError:  # the submission can be sent again all the same
                return None
            for job in jobs[:_MOST_READ]:
                if has_mark(self._graph(job.id, deadline), key):
                    return job.id
        return None

    def _graph(self, job_id: str, deadline: Deadline) -> dict[str, Any]:
        """Return the graph of a job from either API; it is empty if neither has the graph."""
        try:
            return dict(self._routes.workflow(job_id, timeout=deadline.left()))
        except NotFound:
            pass
        try:
            found = self._v1.get_job(job_id).workflow
        except ComfyError:
            return {}
        return dict(table_at(found, "prompt"))
