"""Runs that are alike are one line; the others are themselves; what is no run ends in one line."""

import json

import pytest

from minirlhf.harness.files import UserError
from minirlhf.tools import curves


def make_run(folder, seed: int, beta: float = 0.1, stage: str = "grpo", figure: str = "reward", **data) -> str:
    """A folder with what a run of three steps leaves."""
    folder.mkdir(parents=True)
    about = {"seed": seed, "stage": stage, "data": {"out": str(folder), "init": "out/sft"} | data,
             "training": {"beta": beta, "show_every": seed}, "cost": {"seconds": seed}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    lines = [json.dumps({"step": i, figure: seed + i / 10}) + "\n" for i in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(lines))
    return str(folder)


def labels(*folders: str) -> dict[str, int]:
    return {label: len(runs) for label, runs in curves.alike(folders).items()}


def test_runs_that_differ_in_the_seed_and_the_folder_are_one_line(tmp_path):
    seeds = [make_run(tmp_path / f"grpo-seed{i}", i) for i in range(3)]
    other = make_run(tmp_path / "grpo-low", 0, beta=0.01)
    assert labels(*seeds, other) == {"grpo-seed*": 3, "grpo-low": 1}
    assert labels(seeds[0], seeds[0] + "/", other) == {"grpo-seed0": 1, "grpo-low": 1}  # the same run, once


def test_runs_of_another_type_or_of_a_file_that_was_changed_are_apart(tmp_path):
    """The data of generated tasks are the seed's: their hash tells nothing apart."""
    about = lambda **more: {"stage": "sft", "data": {"data": ["a.jsonl"]}, "training": {}, "data_hash": "x", "dtype": "float32"} | more
    folders = {"a": about(), "b": about(dtype="bfloat16"), "c": about(data_hash="y"), "d": about(data={}), "e": about(data={}, data_hash="y")}
    for name, run in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    assert labels(*(str(tmp_path / name) for name in folders)) == {"a": 1, "b": 1, "c": 1, "d, e": 2}


@pytest.mark.parametrize("more", [{"stage": "ppo"}, {"beta": 0.2}, {"init": "out/other"}], ids=str)
def test_what_else_differs_tells_runs_apart(more, tmp_path):
    folders = [make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, **more)]
    assert labels(*folders) == {"a": 1, "b": 1}


def test_names_keep_what_tells_folders_apart(tmp_path, monkeypatch):
    """Relative or not."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a" / "ppo", 0), make_run(tmp_path / "b" / "ppo", 0, beta=0.2)
    assert labels("a/ppo", str(tmp_path / "b" / "ppo")) == {"a/ppo": 1, "b/ppo": 1}


def test_two_groups_never_share_a_name(tmp_path):
    made = [make_run(tmp_path / f"r{i}", i, beta=0.1 * (i % 2)) for i in range(4)]
    assert sorted(labels(*made).values()) == [2, 2]


def test_runs_whose_names_begin_otherwise_are_all_named(tmp_path):
    """A star alone says nothing."""
    assert labels(make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1)) == {"a, b": 2}


def test_a_run_without_run_json_is_itself(tmp_path):
    made = [make_run(tmp_path / f"r{i}", i) for i in range(2)]
    for folder in made:
        (tmp_path / folder / "run.json").unlink()
    assert labels(*made) == {"r0": 1, "r1": 1}


def test_a_page_a_picture_and_lines_of_blocks_are_made(tmp_path, monkeypatch, capsys):
    made = [make_run(tmp_path / "ppo1", 0), make_run(tmp_path / "ppo2", 1),
            make_run(tmp_path / "sft", 0, stage="sft", figure="loss")]
    monkeypatch.setattr("sys.argv", ["curves", *made, "--out", str(tmp_path / "out")])
    curves.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["ppo*  reward  ▁▄█  0.6 -> 0.8", "sft   loss    ▁▄█  0.1 -> 0.3"]
    page, picture = (tmp_path / "out" / f"curves.{kind}" for kind in ("html", "svg"))
    assert "ppo*: mean and range of 2" in page.read_text() and picture.read_text().startswith("<svg ")


@pytest.mark.parametrize("content", [None, "", '{"loss": 1}\n', "\x00"])
def test_what_is_no_run_is_refused_by_name(content, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    monkeypatch.setattr("sys.argv", ["curves", str(tmp_path), "--out", str(tmp_path / "out")])
    monkeypatch.chdir(tmp_path.parent)  # the folder is named as the user would
    with pytest.raises(UserError, match=rf"^({tmp_path.name}: no |{tmp_path}/)log.jsonl"):
        curves.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("about", ['{"data": 3}', "{"])
def test_a_damaged_run_json_is_refused(about, tmp_path):
    folder = make_run(tmp_path / "a", 0)
    (tmp_path / "a" / "run.json").write_text(about)
    with pytest.raises(UserError, match="run.json"):
        curves.alike((folder,))
