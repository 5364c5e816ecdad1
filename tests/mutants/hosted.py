"""Defects of the edge of Comfy API v2: its streams, files, uploads and refusals."""

from __future__ import annotations

from .mutant import Mutant

FILES = "behaviour/test_hosted_files.py"
ROUTES = "behaviour/test_hosted_routes.py"
UPLOADS = "behaviour/test_hosted_uploads.py"

HOSTED: tuple[Mutant, ...] = (
    Mutant(
        "HE01",
        "transport/http.py",
        "if trusted and is_same_origin(address, self.address):",
        "if trusted:",
        FILES,
        "the key goes to the storage of files, and to whoever a server names",
    ),
    Mutant(
        "HE02",
        "transport/url.py",
        'return attrs.evolve(one, prefix="") == attrs.evolve(other, prefix="")',
        "return one.host == other.host",
        FILES,
        "the key goes to another port of the same machine",
    ),
    Mutant(
        "HE03",
        "hosted/files.py",
        "            place, here = target, own.at(target.address, _STORAGE)\n",
        "            place = target\n"
        "            here = own.at(target.address, _OWN, trusted=True)\n",
        FILES,
        "the key is sent along with a redirect",
    ),
    Mutant(
        "HE04",
        "hosted/places.py",
        'if login or (before.scheme == "https" and address.scheme != "https"):',
        "if login:",
        "unit/test_hosted_places.py",
        "a file that was asked for over https comes over http",
    ),
    Mutant(
        "HE05",
        "transport/resume.py",
        "        if known != old[len(old) - len(known) :]:\n",
        "        if False:\n",
        FILES,
        "a file that changed during a download is put together of two",
    ),
    Mutant(
        "HE06",
        "hosted/files.py",
        "                if not start or exc.status not in _NO_RANGE:\n",
        "                if True:\n",
        FILES,
        "a proxy that refuses a range ends the download",
    ),
    Mutant(
        "HE07",
        "hosted/files.py",
        "    if file.size not in (None, size):\n",
        "    if False:\n",
        FILES,
        "a file that is too short is kept",
    ),
    Mutant(
        "HE08",
        "hosted/files.py",
        '    if hasher is not None and f"blake3:{hasher.hexdigest()}"',
        '    if False and f"blake3:{hasher}"',
        FILES,
        "a file with other bytes than its hash says is kept",
    ),
    Mutant(
        "HE09",
        "hosted/files.py",
        "            here.identity.entrust_query(place.query)\n",
        "",
        FILES,
        "the log has signed links",
    ),
    Mutant(
        "HE10",
        "hosted/models.py",
        "    return Sealed(value) if is_url and value != _LOST else None\n",
        "    return value if is_url and value != _LOST else None\n",
        "unit/test_hosted_answers.py",
        "the repr of an output has a signed link",
    ),
    Mutant(
        "HE11",
        "hosted/sse.py",
        "            self._size += len(line) + 1\n",
        "",
        "unit/test_sse.py",
        "a frame without end fills the memory",
    ),
    Mutant(
        "HE12",
        "hosted/sse.py",
        '            chunk = chunk.removeprefix(b"\\n")\n',
        "            pass\n",
        "unit/test_sse.py",
        "a line that ends between two reads ends its frame",
    ),
    Mutant(
        "HE13",
        "hosted/dialect.py",
        "        error.retryable = not may_have_acted\n",
        "        error.retryable = True\n",
        ROUTES,
        "a job that may be in the queue is submitted once more",
    ),
    Mutant(
        "HE14",
        "hosted/routes.py",
        "                exc.retryable = False  # the job may be in the queue\n",
        "                pass\n",
        ROUTES,
        "a job whose submission got no answer is submitted once more",
    ),
    Mutant(
        "HE15",
        "transport/http.py",
        "            self._check_route(request.method, request.route)\n",
        "            pass\n",
        ROUTES,
        "a hosted server is asked for routes that it does not have",
    ),
    Mutant(
        "HE16",
        "hosted/assets.py",
        "        if isinstance(upload.source, Path) and upload.state() != state:\n",
        "        if False:\n",
        UPLOADS,
        "a file that changed while it was sent is used as it was in between",
    ),
    Mutant(
        "HE17",
        "transport/http.py",
        "        made._live, made._is_one_off = _LiveTransfers(), True\n",
        "        made._is_one_off = True\n",
        FILES,
        "results cannot be read after the client was closed",
    ),
)
