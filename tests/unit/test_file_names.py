"""Names of local files by a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comfy_client.errors import WorkflowError
from comfy_client.jobs.names import is_template, local_paths
from comfy_client.jobs.result import Result, make_result

GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 7, "cfg": 6.5, "model": ["2", 0]}},
    "2": {"class_type": "Loader", "inputs": {"name": "a/b.ckpt", "on": True, "odd": [1, 2, 3]}},
    "3": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0]},
        "_meta": {"title": "My: pictures"},
    },
    "4": {"class_type": "PreviewAny", "inputs": {}},
}


def result_of(*names: str, node: str = "3") -> Result:
    """A result with images in memory."""
    frames = [(node, "image/png", memoryview(name.encode())) for name in names]
    return make_result("id", GRAPH, {}, frames=frames)


def path_of(template: str, **values: Any) -> str:
    [path] = local_paths(template, [(values.__getitem__, "server.png")])
    return path.as_posix()


# -- what stands for what -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{seed}{ext}", "7.png"),
        ("{node}_{index}{ext}", "My_ pictures_0.png"),
        ("{index:03}{ext}", "000.png"),
        ("{index:3}.x", "000.x"),
        ("{name}", "My_ pictures_00001_"),
        ("{KSampler.cfg} {1.seed}.png", "6.5 7.png"),
        ("{Loader.name}.png", "a_b.ckpt.png"),
        ("{Loader.on}.png", "True.png"),
        ("{Loader.odd}.png", "[1, 2, 3].png"),
        ("a/{seed}/b{ext}", "a/7/b.png"),
        ("{seed}/", "7/My_ pictures_00001_.png"),
        ("{{{seed}}}", "{7}"),
        ("a/./{seed}/.//b", "a/7/b"),
    ],
)
def test_fields_are_facts_of_the_output_and_inputs(
    tmp_path: Path, template: str, name: str
) -> None:
    """One line for each."""
    [path] = result_of("one").save(f"{tmp_path}/{template}")
    assert path.relative_to(tmp_path).as_posix() == name
    assert path.read_bytes() == b"one"


def test_without_a_seed_the_name_says_none(tmp_path: Path) -> None:
    """The run was expensive, and is saved."""
    [path] = result_of("one", node="4").save(f"{tmp_path}/{{seed}}{{ext}}")
    assert path.name == "none.png"


def test_a_name_is_never_an_extension_alone() -> None:
    """An empty text says none; an extension may well be empty."""
    assert path_of("out/{text}{ext}", text=" ", ext=".png") == "out/none.png"
    assert path_of("out/{text}{ext}", text="a", ext="") == "out/a"


@pytest.mark.parametrize(
    ("template", "error", "says"),
    [
        ("{sed}.png", ValueError, r"{sed} is not one of {seed}, {node}, {name}, {ext}, {index}"),
        ("{__class__}", ValueError, "is not one of"),
        ("{seed!r}", ValueError, "is not one of"),
        ("{seed:>10}", ValueError, "is not one of"),
        ("{index.__class__}", WorkflowError, "no node"),
        ("{seed.real}", WorkflowError, "no node"),
        ("{KSampler.sed}", WorkflowError, "has no input 'sed'; nearest: 'seed'"),
        ("{KSampler.model}", WorkflowError, "is linked to another node"),
        ("{seed", ValueError, "a single brace"),
        ("seed}", ValueError, "a single brace"),
        ("{}", ValueError, "a single brace"),
        ("{{seed}", ValueError, "a single brace"),
        ("{seed}/../a", ValueError, "'..' is not allowed after a field"),
    ],
)
def test_a_wrong_template_is_refused_before_anything_is_written(
    tmp_path: Path, template: str, error: type[Exception], says: str
) -> None:
    """Nothing in a template is evaluated: no attribute, no conversion, no format."""
    with pytest.raises(error, match=says):
        result_of("one").save(f"{tmp_path}/{template}")
    assert list(tmp_path.iterdir()) == []


def test_a_single_output_has_no_index(tmp_path: Path) -> None:
    """It does not know its position; all else is the same."""
    image = result_of("one").image
    assert image.save(f"{tmp_path}/{{seed}}{{ext}}").name == "7.png"
    assert image.save(f"{tmp_path}/{{seed}}{{ext}}").name == "7 (1).png"
    assert image.save(f"{tmp_path}/{{seed}}{{ext}}", if_exists="overwrite").name == "7.png"
    with pytest.raises(ValueError, match="is not one of"):
        image.save(f"{tmp_path}/{{index}}{{ext}}")


def test_files_of_one_call_never_share_a_name(tmp_path: Path) -> None:
    """Whatever the rule for older files is, and in the same order each time."""
    result = result_of("one", "two", "three")
    for rule in (None, "overwrite", "skip"):
        paths = result.save(f"{tmp_path}/{rule}/{{seed}}{{ext}}", if_exists=rule)  # type: ignore[arg-type]
        assert [path.name for path in paths] == ["7.png", "7 (1).png", "7 (2).png"]
        assert [path.read_bytes() for path in paths] == [b"one", b"two", b"three"]
        assert [item.path for item in result] == paths


# -- values that would do harm --------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{a}/x", "file/x"),
        ("x/{b}", "x/_etc_passwd"),
        ("x/{c}{c}/y", "x/file/y"),
        ("x/{d}.png", "x/_.._.._up.png"),
        ("x/.{e}", "x/hidden"),
        ("x/{f}.png", "x/_con.png"),
        ("x/{g}.png", "x/C__a.png"),
        ("x/{h}.png", "x/png.exe.png"),
        ("x/{i}.png", "x/none.png"),
    ],
)
def test_a_value_is_a_harmless_part_of_one_name(template: str, name: str) -> None:
    """One line for each trick."""
    harm = {
        "a": "..",
        "b": "/etc/passwd",
        "c": ".",
        "d": "/../../up",
        "e": "hidden",
        "f": "con",
        "g": "C:\\a",
        "h": "\u202epng.exe\x00",
        "i": "\n",
    }
    assert path_of(template, **harm) == name


def test_a_long_value_leaves_room_for_the_others() -> None:
    """A prompt may have thousands of characters."""
    assert path_of("{text}_{seed}.png", text="x" * 5000, seed=7) == "x" * 80 + "_7.png"


def test_a_folder_that_is_a_link_is_passed_by(tmp_path: Path) -> None:
    """The text before the first field may lead anywhere; what is put in may not."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "mine").symlink_to(outside)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "7").symlink_to(outside)
    (tmp_path / "out" / "8").write_bytes(b"a file")
    here = tmp_path.as_posix()
    assert path_of(f"{here}/mine/{{a}}.png", a=7) == f"{here}/mine/7.png"
    assert path_of(f"{here}/out/{{a}}/b.png", a=7) == f"{here}/out/7 (1)/b.png"
    assert path_of(f"{here}/out/{{a}}/b.png", a=8) == f"{here}/out/8 (1)/b.png"
    assert path_of(f"{here}/out/{{a}}", a=7) == f"{here}/out/7 (1)"


def test_paths_that_are_equal_to_some_file_system_are_numbered() -> None:
    """In folders, too, that only some tell apart."""
    values: list[dict[str, Any]] = [{"a": "X", "b": "y"}, {"a": "x", "b": "Y"}]
    paths = local_paths("{a}/{b}", [(each.__getitem__, "") for each in values])
    assert paths == [Path("X/y"), Path("x/Y (1)")]


@pytest.mark.parametrize(
    ("path", "expected"), [("out", False), ("out/{a}", True), ("{{", True), (Path("}"), True)]
)
def test_a_brace_makes_a_template(path: Any, expected: bool) -> None:
    """Otherwise it is a folder."""
    assert is_template(path) is expected
