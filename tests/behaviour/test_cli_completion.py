"""The Tab key: files, ids, node classes, folders, inputs and their values."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from comfy_client import ComfyApi, Workflow
from comfy_client.cli import shells
from comfy_client.cli.main import main
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine, open_terminal
from tests.helpers.gates import shows, until_it_runs
from tests.helpers.http import raw_server
from tests.helpers.long import few

#: Completes a command line in bash, or in another shell: ``completed("comfy-client ru")``.
Completed = Callable[..., list[str]]
#: What stands for files, after the dots and brackets are taken away.
PATHLIKE = ("FILE", "DIR", "TEMPLATE", "WORKFLOW")
#: Values that nothing is known about, by metavar or by the name of the parameter.
FREE = {"SECONDS", "SIZE", "GB", "TEXT", "PATH", "NAME", "N", "TIME", "HOST:]PORT"}
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def completed(comfy_client: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Completed]:
    """Completes a line in a folder with a workflow and some files."""
    home = comfy_client.home
    Workflow.example().save(home / "big20.json")
    (home / "photo.jpg").touch()
    (home / "my photo.png").touch()
    (home / "pictures").mkdir()
    shells.register()
    for name in [one for one in os.environ if one.startswith(("COMFY", "XDG_", "COMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COMFY_COMPLETION_TIMEOUT", str(LIMIT))  # a machine that tests may be slow

    def complete(line: str, shell: str = "bash", **variables: str) -> list[str]:
        given = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDS": line, **variables}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        made = get_completion_class(shell)
        assert made is not None
        return made(main, {}, "comfy-client", "_COMFY_CLIENT_COMPLETE").complete().splitlines()

    with contextlib.chdir(home):
        yield complete


# -- every parameter ----------------------------------------------------------------------


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    """Each parameter of the group and of its commands that takes a value."""
    commands: dict[str, click.Command] = {"": main, **main.commands}
    for name, command in commands.items():
        for param in command.params:
            if not isinstance(param, click.Option) or not param.is_flag:
                yield f"{name} {param.name}".strip(), param


def metavar_of(param: click.Parameter) -> str:
    return (param.metavar or str(param.name)).strip("[].")


def is_path(param: click.Parameter) -> bool:
    named = metavar_of(param).endswith(PATHLIKE)
    return named or isinstance(param.type, (click.Path, click.File))


PARAMETERS = dict(parameters())


@pytest.mark.parametrize("name", [name for name, param in PARAMETERS.items() if is_path(param)])
def test_parameters_that_take_a_path_complete_files(completed, name):
    """Each parameter of every command is a case, so new ones are tested, too."""
    param = PARAMETERS[name]
    before = metavar_of(param).rpartition("=")[0]
    text = f"{before}=pho" if before else "pho"
    found = param.shell_complete(click.Context(main), text)
    if before:
        assert [one.value for one in found] == [f"{before}=photo.jpg"]
    else:
        assert [(one.type in ("file", "dir"), one.value) for one in found] == [(True, "pho")]


def test_at_least_these_take_a_path():
    """The test above would pass if it found no parameters."""
    names = {name for name, param in PARAMETERS.items() if is_path(param)}
    assert len(names) >= 60
    assert {"run workflow", "run out", "run inputs", "run login_file", "sweep journal"} <= names
    assert {"sweep csv", "sweep sheet", "check definitions", "convert output"} <= names
    assert {"upload files", "download out", "job out", "serve tls_keyfile", "demo output"} <= names


def test_every_other_parameter_has_completion_or_is_listed_as_free():
    """A new option needs either a completion or a metavar that has none."""
    open_to_all = {
        name
        for name, param in PARAMETERS.items()
        if not is_path(param)
        and type(param).shell_complete is click.Parameter.shell_complete
        and param._custom_shell_complete is None
        and not isinstance(param.type, (click.Choice, *NUMBERS))
        and metavar_of(param) not in FREE
        and not name.startswith("serve ")
        and param.name != "user"
    }
    assert open_to_all == set()


# -- words as the shells give them --------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("comfy-client run big", ["file,big"]),
        ("comfy-client run big20.json --out p", ["file,p"]),
        ("comfy-client run big20.json --out=pi", ["plain,pictures/"]),
        ("comfy-client run big20.json --se", ["plain,--set", "plain,--seed"]),
        ("comfy-client run big20.json --set Sampler.st", ["plain,Sampler.steps="]),
        ("comfy-client run big20.json --set=Sampler.st", ["plain,Sampler.steps="]),
        ("comfy-client run big20.json --set Sampler.steps=", ["plain,20"]),
        ("comfy-client run big20.json --set KSampler.st", ["plain,KSampler.steps="]),
        ("comfy-client run big20.json --set CLIPTextEncode.t", []),  # two nodes have this class
        ("comfy-client run big20.json --set 'Sampler.steps=", ["plain,Sampler.steps=20"]),
        ("comfy-client run big20.json --set Pos", [r"plain,Positive\ prompt.text="]),
        ("comfy-client run big20.json --set Positive\\ pr", [r"plain,Positive\ prompt.text="]),
        ("comfy-client run big20.json --set 'Positive pr", ["plain,Positive prompt.text="]),
        ('comfy-client run big20.json --set "Positive pr', ["plain,Positive prompt.text="]),
        ("comfy-client run big20.json --set='Positive pr", ["plain,Positive prompt.text="]),
        ("comfy-client run big20.json --set Sampler.seed=r", ["plain,random"]),
        ("comfy-client run big20.json --set No.such=", []),
        ("comfy-client run big20.json --set No.such=@ph", ["plain,photo.jpg"]),
        ("comfy-client run big20.json --input LoadImage=pho", ["plain,photo.jpg"]),
        ("comfy-client run big20.json --input LoadImage=my", [r"plain,my\ photo.png"]),
        ("comfy-client run big20.json --input 'Load Image=my", ["plain,Load Image=my photo.png"]),
        ("comfy-client run big20.json --input Load\\ Image=my", [r"plain,my\ photo.png"]),
        ("comfy-client run big20.json --input X=none/p", []),
        ("comfy-client run -q --set Sampler.steps=4 b", ["file,b"]),
        ("comfy-client run --set Sampler.st", []),
        ("comfy-client run none.json --set Sampler.st", []),
        ("comfy-client run - --set Sampler.st", []),
        ("comfy-client run photo.jpg --set Sampler.st", []),
        ("comfy-client run big20.json --seed r", ["plain,random"]),
        ("comfy-client sweep big20.json --axis Sampler.st", ["plain,Sampler.steps="]),
        ("comfy-client sweep big20.json --axis Sampler.steps=8,", ["plain,8,20"]),
        ("comfy-client sweep big20.json --axis Sampler.steps=20,2", []),
        ("comfy-client --log", ["plain,--login-file"]),
        ("comfy-client dow", ["plain,download"]),
        ("comfy-client check big20.json --definitions ph", ["file,ph"]),
        ("comfy-client run 'big", ["file,big"]),
        ("comfy-client api DEL", ["plain,DELETE"]),
        ("comfy-client api GET /obj", ["plain,/object_info"]),
        ("comfy-client api /prompt --data @big", ["plain,big20.json"]),
        ("comfy-client api /x --field 'a=@big", ["plain,a=@big20.json"]),
        ("comfy-client api /x --field me@big", []),
    ],
)
def test_bash_gets_the_part_of_the_word_that_it_replaces(completed, line, found):
    """The part after the last unquoted word break, with the quoting that is open there."""
    assert completed(line) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["run", "big"], ["file,big"]),
        (["run", "big20.json", "--set", "Sampler.steps", "=", ""], ["plain,20"]),
        (["run", "big20.json", "--input", "LoadImage", "=", "pho"], ["plain,photo.jpg"]),
        (["run", "big20.json", "--set", "=", "Sampler.st"], ["plain,Sampler.steps="]),
        (["run", "big20.json", "--host", "http", ":", "//gp"], ["plain,//gpu:8188"]),
        (["run", "big20.json", "--set", "'Positive pr"], ["plain,Positive prompt.text="]),
        (["run", ""], ["file,"]),
    ],
)
def test_words_that_bash_splits_are_joined(completed, config, words, found):
    """Bash splits at ``=`` and ``:``, and click's own script sends only these words."""
    config('[profiles.gpu]\nhost = "http://gpu:8188"\n')
    sent = {"COMP_LINE": "", "COMP_WORDS": "\n".join(["comfy-client", *words])}
    assert completed("", **sent, COMP_CWORD=str(len(words))) == found


def test_text_after_the_cursor_is_ignored(completed):
    """So are the words that follow."""
    line = "comfy-client run big20.json --set Sampler.st --out pictures/"
    at = line.index(" --out")
    assert completed(line, COMP_POINT=str(at)) == ["plain,Sampler.steps="]


def test_bash_replaces_the_whole_word_if_the_equals_sign_is_no_word_break(completed):
    """A user may have changed ``COMP_WORDBREAKS``."""
    line = "comfy-client run big20.json --set Sampler.steps="
    assert completed(line, COMP_WORDBREAKS=" \t\n") == ["plain,Sampler.steps=20"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_fish_and_zsh_completions_are_whole_words(completed, shell):
    """These shells quote what they insert."""

    def values(line: str) -> list[str]:
        answer = completed(line, shell)
        if shell == "zsh":
            return [
                f"{kind},{value}" for kind, value in zip(answer[::3], answer[1::3], strict=True)
            ]
        return [one.partition("\t")[0] for one in answer]

    assert values("comfy-client run big") == ["file,big"]
    run = "comfy-client run big20.json"
    assert values(f"{run} --out=pi") == ["plain,--out=pictures/"]
    assert values(f"{run} --set Pos") == ["plain,Positive prompt.text="]
    assert values(f"{run} --set 'Positive pr") == ["plain,Positive prompt.text="]
    assert values(f"{run} --set=Sampler.st") == ["plain,--set=Sampler.steps="]
    assert values(f"{run} --set Sampler.steps=") == ["plain,Sampler.steps=20"]
    assert values(f"{run} --input 'Load Image=my") == ["plain,Load Image=my photo.png"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--set", "Sampler.st"], "Sampler.steps="),
        (["--set=Sampler.st"], "--set=Sampler.steps="),
        (["--set", "Sampler.steps="], "Sampler.steps=20"),
        (["--set", "Pos"], "'Positive prompt.text="),
        (["--set", "'Positive pr"], "'Positive prompt.text="),
        (["--set", '"Positive pr'], "'Positive prompt.text="),
        (["--set", "'Positive pr'"], "'Positive prompt.text="),
        (["--set='Positive pr"], "'--set=Positive prompt.text="),
        (["--input", "'Load Image=my"], "'Load Image=my photo.png'"),
        (["--input", "X=it"], "'X=it''s \u2018\u2018$(calc).png'"),
        (["--input", "'X=it''s"], "'X=it''s \u2018\u2018$(calc).png'"),
        (["--out", r"C:\pic"], None),
    ],
)
def test_powershell_gets_words_in_its_quotes(completed, words, text):
    """As JSON in ASCII, whatever the code page; nothing of a value is obeyed."""
    Path("it's \u2018$(calc).png").touch()
    sent = json.dumps(["comfy-client", "run", "big20.json", *words])
    answer = completed("", "powershell", COMP_WORDS=sent)
    assert all(line.isascii() for line in answer)
    found = [json.loads(line) for line in answer]
    if text is None:
        assert [one["type"] for one in found] == ["file"]
    else:
        assert [(one["type"], one["text"]) for one in found] == [("plain", text)]
        assert "''" not in found[0]["value"]


@pytest.mark.parametrize(
    ("value", "is_offered"),
    [
        ('nice.png" --set "Evil.text=@secret.txt', False),
        ('"', False),
        ("two words\\", False),
        ("it's\\", False),
        ("C:\\pictures\\", True),  # needs no quotes
        ("two words\\ and more", True),
    ],
)
def test_powershell_gets_no_value_that_becomes_several_words(completed, value, is_offered):
    """Before 7.3, it escapes neither ``"`` nor a backslash before the quote that it adds."""
    workflow = Workflow.example()
    workflow["Sampler"]["sampler_name"] = value
    workflow.save("words.json")
    set_it = ["--set", "Sampler.sampler_name="], ["--set=Sampler.sampler_name="]
    for words in set_it:
        sent = json.dumps(["comfy-client", "run", "words.json", *words])
        answer = completed("", "powershell", COMP_WORDS=sent)
        found = [json.loads(line)["value"].rpartition("_name=")[2] for line in answer]
        assert found == [value] * is_offered


def test_the_script_of_powershell_is_its_source(comfy_client):
    """It asks by the same variable that prints it."""
    ran = comfy_client.installed(_COMFY_CLIENT_COMPLETE="powershell_source")
    assert ran.status == 0, ran
    assert "-Native -CommandName 'comfy-client'" in ran.out
    assert "$env:_COMFY_CLIENT_COMPLETE = 'powershell_complete'" in ran.out


def test_values_with_unprintable_characters_are_not_offered(completed):
    """A newline in a title or in a value would split the answer in two."""
    workflow = Workflow.example()
    workflow["Positive prompt"]["text"] = "two\nlines"
    workflow.save("lines.json")
    run = "comfy-client run lines.json --set"
    assert completed(f"{run} 'Positive prompt.text=") == []
    Path("new\nline.jpg").touch()
    assert completed(f"{run} Sampler.steps=1 --input LoadImage=new") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_descriptions_are_one_line_without_control_characters(monkeypatch, shell):
    """A server's words in one forge no further candidate, and do not control the terminal."""
    help_text = "running\nplain\nforged\t\x1b]0;title\x07"
    found = [CompletionItem("an-id", help=help_text), CompletionItem("other")]
    monkeypatch.setattr(ShellComplete, "get_completions", lambda *_: found)
    variables = {"COMP_WORDS": "comfy-client job ", "COMP_CWORD": "2"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    kind = get_completion_class(shell)
    answer = kind(main, {}, "comfy-client", "_COMFY_CLIENT_COMPLETE").complete()
    assert "\x1b" not in answer
    assert len(answer.splitlines()) == (6 if shell == "zsh" else 2)
    assert "running plain forged ]0;title" in answer


def test_bash_puts_no_earlier_command_in_place_of_a_value(completed):
    """Bash replaces ``!!`` within double quotes, and the earlier command could even run."""
    workflow = Workflow.example()
    workflow["Positive prompt"]["text"] = 'a "fox"!! `id`'
    workflow.save("bang.json")
    run = "comfy-client run bang.json --set"
    assert completed(f'{run} "Positive prompt.text=') == []
    quoted = completed(f"{run} 'Positive prompt.text=")
    assert quoted == ['plain,Positive prompt.text=a "fox"!! `id`']
    assert completed(f"{run} 'Positive prompt'.text=") == [r"plain,a\ \"fox\"\!\!\ \`id\`"]


# -- what the server knows ----------------------------------------------------------------


def test_ids_come_from_the_queue_and_the_history(completed, comfy, monkeypatch):
    """For ``cancel``, only from the queue; each id is offered once."""
    monkeypatch.setenv("COMFYUI_HOST", comfy.url)
    with ComfyApi(comfy.url) as api:
        ended = api.run(shows()).prompt_id
        running = api.submit(shows(waits=True)).prompt_id
        until_it_runs(comfy)
        for command in ("job", "watch", "download"):
            found = {*completed(f"comfy-client {command} ")}
            assert found == {f"plain,{ended}", f"plain,{running}"}
            assert completed(f"comfy-client {command} {ended[:8]}") == [f"plain,{ended}"]
        assert completed("comfy-client cancel ") == [f"plain,{running}"]
        assert completed(f"comfy-client cancel {running} ") == []
        assert completed(f"comfy-client run {ended[:6]}") == [f"plain,{ended}"]
        rerun = f"comfy-client rerun {ended[:8]} --set Gated.te"
        assert completed(rerun) == completed(rerun.replace("rerun", "run")) == ["plain,Gated.text="]
        Path(f"{ended[:6]}.json").touch()
        assert completed(f"comfy-client run {ended[:6]}") == [f"file,{ended[:6]}"]


def test_classes_folders_choices_and_checkpoints_come_from_the_server(completed, comfy):
    """The server is the one named on the command line, before or after the command."""
    host = f"--host {comfy.url}"
    assert "plain,KSampler" in completed(f"comfy-client nodes {host} KSam")
    assert "plain,KSampler" in completed(f"comfy-client {host} nodes KSam")
    assert completed(f"comfy-client models {host} checkp") == ["plain,checkpoints"]
    set_sampler = "big20.json --set Sampler.sampler_name"
    assert "plain,euler_ancestral" in completed(f"comfy-client run {host} {set_sampler}=eu")
    assert "plain,euler" in completed(f"comfy-client run {host} {set_sampler}=")
    axis = "big20.json --axis Sampler.sampler_name=euler,eu"
    assert "plain,euler,euler_ancestral" in completed(f"comfy-client sweep {host} {axis}")
    assert completed(f"comfy-client demo {host} --checkpoint simu") != []
    assert completed("comfy-client demo --checkpoint simu", COMFYUI_HOST=comfy.url) == []


def test_completion_for_a_workflow_in_ui_format_needs_definitions(completed, comfy):
    """They come from the server, or from a file."""
    Path("ui.json").write_text(json.dumps(load_workflow("txt2img_ui")))
    found = completed(f"comfy-client run --host {comfy.url} ui.json --set Sampler.st")
    assert found == ["plain,Sampler.steps="]
    with ComfyApi(comfy.url) as api:
        Path("nodes.json").write_text(json.dumps(api.node_definitions()))
    offline = "comfy-client inputs --host 127.0.0.1:9 --definitions nodes.json"
    assert completed(f"{offline} ui") == ["file,ui"]
    assert completed("comfy-client run --host 127.0.0.1:9 ui.json --set Sampler.st") == []


# -- failures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "comfy-client job ",
        "comfy-client --profile none job ",
        "comfy-client job --host http://u:p@host ",
        "comfy-client job --host 'not a host' ",
        "comfy-client job --login-file - ",
        "comfy-client job --login-file none.txt ",
        "comfy-client nodes KS",
        "comfy-client none --wh",
    ],
)
def test_a_failure_is_silent(completed, capfd, line):
    """No server, an unknown profile, a password in an option, or standard input as a file."""
    assert completed(line, COMFYUI_HOST="127.0.0.1:9") == []
    assert capfd.readouterr() == ("", "")


def test_a_server_that_never_answers_does_not_block_the_shell(comfy_client):
    """It accepts the connection; the completion process ends by itself."""

    def says_nothing(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with raw_server(says_nothing) as port:
        line = "comfy-client job "
        asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDS": line}
        ended = comfy_client.installed(
            _COMFY_CLIENT_COMPLETE="bash_complete",
            COMFYUI_HOST=f"127.0.0.1:{port}",
            COMP_CWORD="2",
            **asked,
        )
    assert (ended.status, ended.out.strip()) == (0, "")  # the scripts drop what is on stderr


def test_a_secret_goes_only_where_the_command_would_send_it(completed):
    """The token of one server is not sent to another that the command line names."""
    with ComfyServer() as ours, ComfyServer() as others:
        variables = {"COMFYUI_HOST": ours.url, "COMFYUI_TOKEN": "secret"}
        assert "plain,KSampler" in completed("comfy-client nodes KS", **variables)
        line = f"comfy-client nodes --host {others.url} KS"
        assert "plain,KSampler" in completed(line, **variables)
        assert {one.headers.get("Authorization") for one in ours.requests} == {"Bearer secret"}
        assert {one.headers.get("Authorization") for one in others.requests} == {None}


def test_hosts_and_profiles_come_from_the_config_file(completed, config):
    """Hosts with a password in them are left out."""
    config(
        '[profiles.studio]\nhost = "https://studio.test"\n'
        '[profiles.home]\nhost = "https://me:secret@home.test"\n'
    )
    assert completed("comfy-client info --profile ") == ["plain,studio", "plain,home"]
    assert completed("comfy-client info --host=") == ["plain,https://studio.test"]


@pytest.fixture
def config(comfy_client: CommandLine) -> Callable[[str], None]:
    """Writes the config file."""

    def write(text: str) -> None:
        file = comfy_client.home / ".config" / "comfy-client" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o600)

    return write


# -- a real bash --------------------------------------------------------------------------


def on_bash(home: Path, lines: list[str]) -> list[str]:
    """Return a function: the words on the line of a real bash after a text and a Tab."""
    here, there = open_terminal(50, 1000)
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    source = Path(shells.__file__).parents[2]
    env = {"HOME": str(home), "PATH": path, "PS1": "here> ", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    shown = bytearray()
    with (
        open(here, "r+b", buffering=0) as terminal,
        subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=there,
            stdout=there,
            stderr=there,
            env={**env, "PYTHONPATH": str(source)},
            cwd=home,
            start_new_session=True,
        ) as process,
    ):
        os.close(there)

        def has_prompt(said: str, after: str) -> bool:
            return after in said and "here> " in said[said.index(after) :]

        def read_until_prompt(after: str = "") -> str:
            shown.clear()
            end = time.monotonic() + 5 * LIMIT
            while not has_prompt(shown.decode(errors="replace"), after):
                ready, _, _ = select.select([here], [], [], max(0.0, end - time.monotonic()))
                assert ready, f"no prompt after {after!r} in {bytes(shown)!r}"
                shown.extend(terminal.read(4096))
            return shown.decode()

        try:
            read_until_prompt()
            terminal.write(
                b'eval "$(_COMFY_CLIENT_COMPLETE=bash_source comfy-client)"; echo re""ady\n'
            )
            read_until_prompt(after="ready\r\n")
            found = []
            for line in lines:
                # Ctrl-A and Ctrl-E go to the begin and the end of the line.
                typed = f"{line}\t\x01printf '<%s>' \x05; echo en''d\n"
                terminal.write(typed.encode())
                said = read_until_prompt(after="end\r\n")
                found.append(said.rpartition("\n<")[2].partition(">end")[0])
            return found
        finally:
            process.kill()


@pytest.mark.parametrize("count", few([5, None], 1))
def test_a_real_bash_completes(completed, comfy_client, count):
    """On a terminal, with the script that the command prints."""
    run = "comfy-client run big20.json"
    workflow = Workflow.example()
    text = "it's a \"fox\"!! $HOME `id`, it's!!"
    workflow["Positive prompt"]["text"] = text
    workflow.save("quotes.json")
    run_it = "comfy-client run quotes.json"
    start = "comfy-client><run><big20.json"
    quoted = f"comfy-client><run><quotes.json><--set><Positive prompt.text={text}"
    expected = {
        "comfy-client run big": start,
        f"{run} --set Sampler.st": f"{start}><--set><Sampler.steps=",
        f"{run} --set 'Positive pr": f"{start}><--set><Positive prompt.text=",
        f"{run} --out=pic": f"{start}><--out=pictures/",
        f"{run_it} --set 'Positive prompt'.text=": quoted,
        f"{run_it} --set 'Positive prompt.text=": quoted,
        f"{run} --extra-data a=@- --login-file - --set Sampler.st": (
            f"{start}><--extra-data><a=@-><--login-file><-><--set><Sampler.steps="
        ),
        f"{run} --set Pos": f"{start}><--set><Positive prompt.text=",
        f"{run} --set=Pos": f"{start}><--set=Positive prompt.text=",
        f"{run} --input LoadImage=my": f"{start}><--input><LoadImage=my photo.png",
        f"{run} --input 'Load Image=my": f"{start}><--input><Load Image=my photo.png",
    }
    assert on_bash(comfy_client.home, [*expected][:count]) == [*expected.values()][:count]
