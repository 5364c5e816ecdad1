"""Which server the command line asks, and with what: options, environment, profiles."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import trustme

from comfy_client import ComfyApi
from comfy_client.cli.profiles import load_config
from comfy_client.cli.server_options import ServerOptions
from comfy_client.cli.target import resolve
from comfy_client.testing import ComfyServer
from tests.helpers.command_line import CommandLine

CONFIG = """
default = "home"

[profiles.home]
host = "home.example"

[profiles.studio]
host = "https://studio.example/comfy"
token = "studio-secret"
user = "u1"
insecure = true
"""


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, for no server in particular."""
    return CommandLine(tmp_path)


def configure(home: Path, text: str = CONFIG, mode: int = 0o600) -> Path:
    """Write the config file; where it is."""
    path = home / ".config" / "comfy-client" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_anything_it_is_this_machine(comfy_client):
    """And nothing is sent."""
    [found] = comfy_client.json("where")
    assert found["host"] == "http://127.0.0.1:8188"
    assert found["credentials"] is None
    assert found["sources"] == {"host": "the default"}
    assert "(not there)" in comfy_client("where").out


def test_an_option_comes_before_the_environment_and_that_before_the_default_profile(comfy_client):
    """A profile that an option names is an option."""
    configure(comfy_client.home)
    env = {"COMFYUI_HOST": "env.example"}

    def host(*options: str, **variables: str) -> tuple[str, str]:
        [found] = comfy_client.json("where", *options, **variables)
        return found["host"], found["sources"]["host"]

    assert host() == ("http://home.example:8188", "profile 'home'")
    assert host(**env) == ("http://env.example:8188", "COMFYUI_HOST")
    assert host("--profile", "studio", **env)[1] == "profile 'studio'"
    assert host(COMFYUI_PROFILE="studio")[1] == "profile 'studio'"
    assert host(COMFYUI_PROFILE="studio", **env)[1] == "COMFYUI_HOST"
    assert host("--host", "option.example", "--profile", "studio", **env)[1] == "--host"


def test_options_may_stand_before_the_command(comfy_client):
    """Those behind it win."""
    configure(comfy_client.home)
    before = comfy_client("--profile", "studio", "--json", "where")
    assert json.loads(before.out)["host"] == "https://studio.example/comfy"
    both = comfy_client("--profile", "home", "where", "--profile", "studio", "--json")
    assert json.loads(both.out)["profile"] == "studio"


@pytest.mark.parametrize("option", ["--host", "--profile"])
def test_an_empty_option_is_a_mistake_and_not_the_default(comfy_client, option):
    """As of a variable of the shell that is not set; also beside others."""
    for more in ([], ["--host", "gpu"]):
        [error] = comfy_client.json("run", "-", *more, option, "", status=2)
        assert option in error["message"]
        assert "it is empty" in error["message"]
    [error] = comfy_client.json("queue", option, " ", status=2)
    assert "it is empty" in error["message"]


def test_a_profile_brings_what_belongs_to_its_server_and_no_secret_is_shown(comfy_client):
    """Neither in words nor as JSON."""
    configure(comfy_client.home)
    [found] = comfy_client.json("where", "--profile", "studio")
    assert (found["credentials"], found["user"], found["insecure"]) == ("token", "u1", True)
    assert found["profiles"] == ["home", "studio"]
    text = comfy_client("where", "--profile", "studio")
    assert "studio (used)" in text.out
    assert "studio-secret" not in text.out + text.err + str(found)


def test_a_profile_says_that_its_server_may_have_the_key_of_partner_nodes(
    comfy_client, monkeypatch
):
    configure(comfy_client.home, "[profiles.own]\nhost = 'own.example'\npartner-key = true\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(comfy_client.home / ".config"))
    for options, is_said in ((["own"], True), ([], False)):
        given = ServerOptions(profiles=tuple(options))
        assert resolve(given.options, load_config()).partner_key is is_said


def test_settings_of_another_server_are_ignored(comfy_client):
    """No secret goes where it does not belong, and a certificate is verified."""
    configure(comfy_client.home)
    [found] = comfy_client.json("where", "--profile", "studio", "--host", "other.example")
    assert (found["credentials"], found["user"], found["insecure"]) == (None, None, False)
    env = {"COMFYUI_HOST": "env.example", "COMFYUI_TOKEN": "env-secret"}
    told = comfy_client("where", "--host", "other.example", **env)
    assert "COMFYUI_TOKEN is not sent" in told.err
    assert "credentials" not in told.out


@pytest.mark.parametrize(
    ("options", "variables", "source"),
    [
        ([], {"COMFYUI_LOGIN": "me:pass"}, "COMFYUI_LOGIN"),
        (["--login-file", "login"], {}, "--login-file"),
        (["--login-file", "login"], {"COMFYUI_TOKEN": "wrong"}, "--login-file"),
        (["--profile", "p"], {"COMFYUI_LOGIN": "wrong:wrong"}, "profile 'p'"),
        (["--profile", "f"], {}, "profile 'f'"),
    ],
)
def test_credentials_come_from_files_the_environment_or_a_profile(
    comfy_client, options, variables, source
):
    """And the server lets us in."""
    (comfy_client.home / "login").write_text("me:pass\n")
    with ComfyServer(credentials=("me", "pass")) as server:
        text = f'[profiles.p]\nhost = "{server.url}"\nlogin = "me:pass"\n'
        login = (comfy_client.home / "login").as_posix()
        text += f'[profiles.f]\nhost = "{server.url}"\nlogin-file = "{login}"\n'
        configure(comfy_client.home, text)
        there = [] if "--profile" in options else ["--host", server.url]
        [info] = comfy_client.json("info", *there, *options, **variables)
        assert info["host"] == server.url
        [found] = comfy_client.json("where", *there, *options, **variables)
        assert found["sources"]["credentials"] == source


def test_a_token_may_come_from_standard_input(comfy_client):
    """As from a password manager."""
    with ComfyServer(credentials="token") as server:
        ran = comfy_client("info", "--host", server.url, "--token-file", "-", stdin="token\n")
        assert ran.status == 0, ran


def test_a_certificate_is_trusted_by_its_file_or_not_verified(comfy_client):
    """Else the server is not reached."""
    authority, folder = trustme.CA(), comfy_client.home
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pem = folder / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    with ComfyServer(tls=(pem, pem)) as server:
        host = ("--host", server.url)
        [error] = comfy_client.json("info", *host, status=3)
        assert error["code"] == "server_unreachable"
        assert "--ca FILE with the CA that signed it (or --insecure" in error["message"]
        assert comfy_client("info", *host, "--ca", "ca.pem").status == 0
        assert comfy_client("info", *host, "--insecure").status == 0
        configure(
            folder, f'[profiles.p]\nhost = "{server.url}"\nca = "{folder.as_posix()}/ca.pem"\n'
        )
        assert comfy_client("info", "--profile", "p").status == 0


def test_a_user_of_a_server_with_several_is_named(comfy_client):
    """His prompts and files are his own."""
    with ComfyServer(multi_user=True) as server, ComfyApi(server.url) as api:
        user = api.create_user("somebody")
        ran = comfy_client("info", "--host", server.url, "--user", user)
        assert ran.status == 0, ran
        assert server.requests[-1].headers["Comfy-User"] == user


@pytest.mark.posix("modes of files")
def test_a_file_with_secrets_that_others_may_read_is_refused(comfy_client):
    """One without any is not; the message says what to do."""
    path = configure(comfy_client.home, mode=0o644)
    [error] = comfy_client.json("where", status=2)
    assert f"chmod 600 {path}" in error["message"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.write_text('[profiles.open]\nhost = "open.example"\n')
    assert comfy_client.json("where", "--profile", "open")


@pytest.mark.posix("modes of files")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_a_config_file_that_others_may_write_is_refused(comfy_client, mode):
    """It could send the secrets of the environment to another host."""
    path = configure(comfy_client.home, '[profiles.open]\nhost = "open.example"\n', mode)
    [error] = comfy_client.json("where", status=2, COMFYUI_TOKEN="secret")
    assert f"others may write it: chmod 600 {path}" in error["message"]
    path.chmod(0o644)
    assert comfy_client.json("where", "--profile", "open")


@pytest.mark.posix("modes of files")
@pytest.mark.parametrize("kind", ["token", "login"])
def test_a_file_with_a_secret_that_others_may_read_is_used_and_said(comfy_client, kind):
    """An option or a profile names it; a pipe has no others."""
    path = comfy_client.home / "secret.txt"
    path.write_text("me:geheim\n")
    text = f'[profiles.p]\nhost = "http://a"\n{kind}-file = "{path}"\n'
    configure(comfy_client.home, text)
    named = {
        "option": ("--host", "http://a", f"--{kind}-file", str(path)),
        "profile": ("--profile", "p"),
    }
    for options in named.values():
        for mode, is_said in ((0o644, True), (0o640, True), (0o602, True), (0o600, False)):
            path.chmod(mode)
            ran = comfy_client("where", *options)
            assert ran.status == 0, ran
            assert (f"others may read it: chmod 600 {path}" in ran.err) is is_said
            assert "geheim" not in ran.out + ran.err
    ran = comfy_client("where", "--host", "http://a", f"--{kind}-file", "-", stdin="me:geheim\n")
    assert (ran.status, "others" in ran.err) == (0, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no toml", "config.toml: "),
        ('profile = "x"', "'profile' is neither"),
        ("profiles = 1", "a profile is a table"),
        ("[profiles.a]\nhots = 'x'", "no key 'hots'; there is host"),
        ("[profiles.a]\nhost = 1", "host must be a string"),
        ("[profiles.a]\ninsecure = 'no'", "insecure must be true or false"),
        (f"a = {'[' * 100_000}", "nested too deeply"),
        ("default = 5\n[profiles.5]\nhost = 'x'", "default must be a string"),
        ("default = 'b'\n[profiles.a]\nhost = 'x'", "no profile 'b'"),
        ("[profiles.a]\nhost = 'x'\nlogin = 'a:b'\ntoken = 'c'", "a login or a token"),
        ("[profiles.a]\ntoken-file = 'x'", "needs a host, and there is none"),
        ("[profiles.a]\nhost = ''\nlogin = 'me:pass'", "profile 'a': host is empty"),
        ("[profiles.a]\nhost = ' '\nlogin = 'me:pass'", "profile 'a': host is empty"),
    ],
)
def test_a_config_file_with_a_mistake_says_where(comfy_client, text, words):
    """Exit status 2."""
    configure(comfy_client.home, text)
    [error] = comfy_client.json("where", "--profile", "a", status=2)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "http://me:secret@x.example"], "everybody on this machine can read"),
        (["--host", "a b"], "names no server"),
        (["--host", "a b"], "(--host)"),
        (["--host", "a", "--host", "b"], "one server at a time"),
        (["--profile", "nope"], "no profile 'nope'"),
        (["--login-file", "nowhere"], "No such file"),
        (["--login-file", "bad"], "does not hold user:password"),
        (["--login-file", "bad", "--token-file", "bad"], "a login or a token"),
    ],
)
def test_a_wrong_option_says_why_and_shows_no_secret(comfy_client, options, words):
    """Exit status 2, or 1 if a file cannot be read."""
    (comfy_client.home / "bad").write_text("secret")
    ran = comfy_client("where", *options)
    assert ran.status in (1, 2)
    assert words in ran.err
    assert "secret" not in ran.err


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"COMFYUI_LOGIN": "secret"}, "COMFYUI_LOGIN does not hold user:password"),
        ({"COMFYUI_HOST": "a b"}, "(COMFYUI_HOST)"),
    ],
)
def test_a_wrong_variable_is_named_and_shows_no_secret(comfy_client, variables, words):
    """Exit status 2."""
    ran = comfy_client("where", **variables)
    assert ran.status == 2
    assert words in ran.err
    assert "secret" not in ran.err


def test_certificates_that_an_option_names_are_verified_whatever_the_profile_says(comfy_client):
    """The first place that says anything of them decides."""
    configure(comfy_client.home)
    (comfy_client.home / "ca.pem").touch()
    [found] = comfy_client.json("where", "--profile", "studio", "--ca", "ca.pem")
    assert (found["ca"], found["insecure"]) == ("ca.pem", False)
    assert found["sources"]["ca"] == "--ca"


def test_no_secret_stands_in_the_list_of_processes(comfy_client):
    """There is no option for one."""
    assert comfy_client("where", "--token", "x").status == 2
    assert comfy_client("where", "--login", "x:y").status == 2


# -- and in Python ----------------------------------------------------------------------


def test_a_client_without_a_host_takes_it_from_the_environment(monkeypatch):
    """With the credentials that are there; its repr says so, and shows none."""
    with ComfyServer(credentials=("me", "pass")) as server:
        monkeypatch.setenv("COMFYUI_HOST", server.url)
        monkeypatch.setenv("COMFYUI_LOGIN", "me:pass")
        with ComfyApi() as api:
            assert api.host == server.url
            assert repr(api) == (
                f"<ComfyApi {server.url} connected, from COMFYUI_HOST and COMFYUI_LOGIN>"
            )


def test_a_client_with_a_host_takes_nothing_from_the_environment(monkeypatch):
    """Least of all a secret."""
    monkeypatch.setenv("COMFYUI_HOST", "elsewhere")
    monkeypatch.setenv("COMFYUI_TOKEN", "secret")
    with ComfyServer() as server, ComfyApi(server.url) as api:
        assert repr(api) == f"<ComfyApi {server.url} connected>"
        assert not any("authorization" in each.headers for each in server.requests)


def test_a_client_says_which_variable_is_wrong(monkeypatch):
    """A password in it stays hidden."""
    monkeypatch.setenv("COMFYUI_HOST", "http://me:secret@a b")
    with pytest.raises(ValueError, match="COMFYUI_HOST: ") as caught:
        ComfyApi()
    assert "secret" not in str(caught.value)


def test_a_login_in_the_host_of_the_environment_comes_before_a_variable(monkeypatch):
    """And what is passed comes before both."""
    with ComfyServer(credentials=("me", "pass")) as server:
        monkeypatch.setenv("COMFYUI_HOST", server.url.replace("//", "//me:pass@"))
        monkeypatch.setenv("COMFYUI_TOKEN", "wrong")
        with ComfyApi() as api:
            assert repr(api).endswith("from COMFYUI_HOST>")
        monkeypatch.setenv("COMFYUI_HOST", server.url)
        with ComfyApi(credentials=("me", "pass")) as api:
            assert api.poll_status().queue_remaining == 0


def test_limits_and_the_cache_are_options_and_settings_of_a_profile(comfy_client):
    """An option counts before a profile, whose server it may be."""
    configure(
        comfy_client.home, '[profiles.a]\nhost = "gpu"\nmax-json = "256 MiB"\nno-cache = true'
    )
    [found] = comfy_client.json("where", "--profile", "a")
    assert (found["max_json"], found["no_cache"]) == (256 << 20, True)
    assert found["sources"]["max-json"] == "profile 'a'"
    [found] = comfy_client.json("where", "--profile", "a", "--max-json", "1g")
    assert found["max_json"] == 1 << 30
    assert found["sources"]["max-json"] == "--max-json"
    [found] = comfy_client.json("where")
    assert (found["max_json"], found["no_cache"]) == (64 << 20, False)
    assert "max-json      4096  (--max-json)" in comfy_client("where", "--max-json", "4096").out


@pytest.mark.parametrize("size", ["", "0", "-1", "x", "1T", "1.5M"])
def test_a_size_is_a_number_of_bytes(comfy_client, size):
    [error] = comfy_client.json("where", "--max-json", size, status=2)
    assert "not a number of bytes" in error["message"]
    configure(comfy_client.home, f'[profiles.a]\nhost = "gpu"\nmax-json = "{size}"')
    if size:
        [error] = comfy_client.json("where", "--profile", "a", status=2)
        assert "not a number of bytes, such as 256M" in error["message"]
        assert "profile 'a'" in error["message"]


def test_advice_about_a_limit_names_the_option(comfy_client):
    with ComfyServer() as server:
        host = ("--host", server.url, "--max-json", "300")
        [error] = comfy_client.json("nodes", *host, status=3)
        assert "--max-json 600 allows twice as much" in error["message"]
        assert comfy_client("nodes", "--host", server.url).status == 0
