"""write_atomic: a reader finds the old file or the new one, whatever happens to the writer."""

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory import MB, peak_of

from minirlhf.harness.files import UserError, read_json, write_atomic, write_json
from minirlhf.harness.folders import load_state, save_state

ROOT = Path(__file__).parents[2]


def test_the_file_holds_the_data_and_nothing_else_is_left(tmp_path):
    write_atomic(tmp_path / "a.bin", b"old and longer")
    write_atomic(str(tmp_path / "a.bin"), b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_missing_folders_are_made(tmp_path):
    write_atomic(tmp_path / "x" / "y" / "a.bin", b"data")
    assert (tmp_path / "x" / "y" / "a.bin").read_bytes() == b"data"


@pytest.mark.parametrize("function", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("old", [b"old", None])
def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch, function, error, old):
    """Whatever step fails, and also on Ctrl-C; where there was no file there is none."""
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def fail(*args):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([] if old is None else ["a.bin"])
    assert old is None or path.read_bytes() == old


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    """Data that cannot be written: here a str, which a binary file refuses."""
    write_atomic(tmp_path / "a.bin", b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "a.bin", "text")
    assert os.listdir(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"old"


def test_what_writes_the_data_itself_is_as_good_as_data(tmp_path):
    """Whole or not at all, too."""
    def stop(file):
        file.write(b"half")
        raise KeyboardInterrupt

    write_atomic(tmp_path / "a.bin", lambda file: file.writelines([b"in ", b"parts"]))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.bin", stop)
    assert os.listdir(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"in parts"


def test_the_data_is_whole_and_synced_before_it_takes_the_name(tmp_path, monkeypatch):
    """All bytes reach the disk in the same folder, since a rename is atomic only there, and then the name."""
    path, events = tmp_path / "a.bin", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle):
        events.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def spy_replace(source, target):
        events.append(("replace", Path(source).read_bytes(), Path(target).read_bytes(), Path(source).parent))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write_atomic(path, b"new" * 1000)
    assert events == [("fsync", 3000), ("replace", b"new" * 1000, b"old", tmp_path)]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    """SIGKILL between the last byte and the rename."""
    (tmp_path / "a.bin").write_bytes(b"old")
    code = ("import os, signal; from minirlhf.harness.files import write_atomic; "
            "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL); "
            "write_atomic('a.bin', b'new' * 9)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert (tmp_path / "a.bin").read_bytes() == b"old"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_mode_that_open_would_give_it(tmp_path, umask, mode):
    """Not the 0600 of a temporary file; and the umask is what it was."""
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.bin", b"new")
        assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == mode
    finally:
        assert os.umask(before) == umask


class Touch:
    """Pickled, it makes a file where it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_state_comes_back(tmp_path):
    """Tensors and plain types, with the optimizer's own dict among them."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = {"step": 3, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "order": [2, 0, 1],
             "name": "é", "beta": 0.1, "none": None}
    save_state(tmp_path / "train_state.pt", state)
    read = load_state(tmp_path / "train_state.pt")
    assert torch.equal(read.pop("rng"), state.pop("rng"))
    moments, wanted = (s.pop("optimizer")["state"][0] for s in (read, state))
    assert all(torch.equal(moments[k], wanted[k]) for k in wanted)
    assert read == state and os.listdir(tmp_path) == ["train_state.pt"]


def test_a_state_is_written_out_of_its_own_memory_and_read_in_place(tmp_path):
    """Of two tensors of 36 MB: nothing beside them to write them, and the file once to read them."""
    path, state = tmp_path / "train_state.pt", {"a": torch.ones(9, MB), "b": torch.ones(9, MB)}
    assert peak_of(lambda: save_state(path, state)) < 10
    assert 72 <= peak_of(lambda: load_state(path)) < 82


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"step": 1, "harm": Touch(tmp_path / "harm")}, tmp_path / "train_state.pt")
    with pytest.raises(UserError, match="train_state.pt"):
        load_state(tmp_path / "train_state.pt")
    assert not (tmp_path / "harm").exists()
    torch.save(torch.nn.Linear(1, 1), tmp_path / "train_state.pt")
    with pytest.raises(UserError):
        load_state(tmp_path / "train_state.pt")


def test_a_missing_state_says_that_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match="train_state.pt: .*nothing to resume"):
        load_state(tmp_path / "train_state.pt")


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04"])
def test_what_is_no_state_ends_in_an_error_for_the_user(tmp_path, content):
    (tmp_path / "train_state.pt").write_bytes(content)
    with pytest.raises(UserError, match="train_state.pt"):
        load_state(tmp_path / "train_state.pt")


def test_a_state_that_is_no_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "train_state.pt")
    with pytest.raises(UserError, match="train_state.pt"):
        load_state(tmp_path / "train_state.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_randomly_damaged_state_ends_in_an_error_for_the_user_or_is_read(tmp_path):
    """A damaged pickle can raise nearly anything; 400 of them, damaged in the pickle itself."""
    path = tmp_path / "train_state.pt"
    save_state(path, {"step": 3, "o": {"a": torch.zeros(3), "l": [1, 2.5, "x", None, True]}})
    data = path.read_bytes()
    pickled = data.index(b"data.pkl") + 8
    rng, refused = random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 2])):
            damaged[pickled + rng.randrange(300)] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(len(data))] if rng.random() < 0.2 else damaged)
        try:
            assert isinstance(load_state(path), dict)
        except UserError:
            refused += 1
    assert 100 < refused


def test_json_of_any_text_can_be_written_and_read_again(tmp_path):
    """A lone surrogate too, which JSON can say and UTF-8 cannot; other scripts stay readable."""
    value = {"prompt": "a\ud800b", "answer": "好 🙂"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "好" in (tmp_path / "x.json").read_text("utf-8")
