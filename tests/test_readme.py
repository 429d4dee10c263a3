"""What the READMEs say of the code: commands that parse, files that exist, line counts, tables."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
from mutants import MUTANTS, markdown
from test_wings import MAY_IMPORT

from minirlhf.evaluation.catalogue import metric_names
from minirlhf.experiments.comparison import config_of
from minirlhf.harness import options
from minirlhf.tasks.sources import parse_tasks

ROOT = Path(__file__).parent.parent
WINGS = sorted(path.parent for path in ROOT.glob("minirlhf/*/__init__.py"))
READMES = [ROOT / "README.md", ROOT / "tests" / "README.md", ROOT / "minirlhf" / "README.md",
           ROOT / "minirlhf" / "README.zh.md", *(wing / "README.md" for wing in WINGS)]  # fmt: skip
SET_UP = (
    "    pip install -r requirements.txt && python train_sft.py && python train_ppo.py && python evaluate.py",
    "    pip install -r requirements.txt && pytest",
)


def name_of(path: Path) -> str:
    """The path from the root: two READMEs may stand in one folder."""
    return path.relative_to(ROOT).as_posix()


each_readme = pytest.mark.parametrize("path", READMES, ids=name_of)


class Parsed(Exception):
    """The options are read: no more of the command is run."""


def code(text: str) -> list[str]:
    """The lines of indented and fenced blocks, without their indentation; what ends in \\ is joined to the next."""
    lines, fenced = [], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if fenced or line.startswith("    "):
            lines.append(line.strip())
    return re.sub(r" *\\\n", " ", "\n".join(lines)).splitlines()


def inline(text: str) -> list[str]:
    """What stands in backticks outside of blocks."""
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


def commands(text: str) -> list[str]:
    """Every command of a README; what stands two spaces behind one is its comment."""
    begun = re.compile(r"(\w+=\S+ )?(?=(python|pytest|pip)\b)")
    lines = [begun.sub("", line, count=1) for line in [*code(text), *inline(text)] if begun.match(line)]
    parts = [re.split(r"\s{2,}", part.strip())[0] for line in lines for part in line.split("&&")]
    return [part.replace("$s", "0") for part in parts]


def check(command: str, text: str, monkeypatch) -> None:
    """Fails for a command that its program would refuse. Nothing is trained."""
    program, *words = shlex.split(command, comments=True)
    if program == "pip":
        assert (words[:2] == ["install", "-r"] and (ROOT / words[2]).exists()) or words[:2] == ["download", "--no-deps"]
    elif program == "pytest":
        if "-k" in words:
            name = words.pop(words.index("-k") + 1)
            assert name in {mutant.name for mutant in MUTANTS}
        assert all(word in ("--mutants", "--fuzz", "-k", "-s") or (ROOT / word).exists() for word in words)
    elif words[0].startswith(".ci/"):
        text = (ROOT / words[0]).read_text(encoding="utf-8")  # its own parser: argparse's
        assert all(f'"{word}"' in text or f"    {word} " in text for word in words if word.startswith("--"))
    elif words == ["-m", "minirlhf"] or words[:2] == ["-m", "zipfile"] or f"# {words[0]}" in code(text):
        pass  # takes no options; is Python's; a script that the README itself prints
    else:
        module = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
        assert module.startswith("minirlhf.tools.") if words[0] == "-m" else (ROOT / words[0]).exists()
        parses(importlib.import_module(module), words[2:] if words[0] == "-m" else words[1:], monkeypatch)


def parses(module, words: list[str], monkeypatch) -> None:
    """The options are read by the parser of the module's own main."""
    def parse(description: str, *classes: type, **more) -> None:
        assert "--resume" not in words or any(hasattr(cls, "resume") for cls in classes)
        asked = [word for word in words if word != "--resume"]  # of a run of the reader's
        for found in options.parse(description, *classes, argv=asked, **more):
            if task := getattr(found, "task", ""):
                parse_tasks(task)
            for row in getattr(found, "algos", ()):
                config_of(row, 1e-3, found.iterations, found)
            if metrics := getattr(found, "metrics", ""):
                metric_names(metrics)
        raise Parsed

    monkeypatch.setattr(module, "parse", parse)
    monkeypatch.setattr(options, "read_config", lambda path, fields: {})  # the file of --config is the reader's
    try:
        module.main()
    except (Parsed, SystemExit) as end:
        assert isinstance(end, Parsed) or (end.code == 0 and words == ["--help"])
    else:
        pytest.fail("main() read no options")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The options of all scripts and tools, as they are typed."""
    found = {"--help", "--config", "--mutants", "--fuzz"}  # argparse's, that of every script, and pytest's in tests/conftest.py

    def parse(description: str, *classes: type, **more) -> None:
        for field in (field for cls in classes for field in dataclasses.fields(cls)):
            name = field.name.rstrip("_").replace("_", "-")
            found.update({f"--{name}", f"--no-{name}"} if field.type is bool else {f"--{name}"})
        raise Parsed

    for path in [*ROOT.glob("*.py"), *ROOT.glob("minirlhf/tools/*.py")]:
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
            if not hasattr(module, "main"):
                raise Parsed
            patch.setattr(module, "parse", parse)
            module.main()
    return found


def slug(heading: str) -> str:
    """The anchor that a heading has in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@each_readme
def test_every_command_parses(path, monkeypatch, capsys):
    text = path.read_text(encoding="utf-8")
    for command in commands(text):
        with monkeypatch.context() as patch:
            try:
                check(command, text, patch)
            except (AssertionError, ImportError, options.UserError) as error:
                pytest.fail(f"{command}: {error}")


def test_the_commands_are_found():
    found = {name_of(path): len(commands(path.read_text(encoding="utf-8"))) for path in READMES}
    assert sum(found.values()) > 60 and found["minirlhf/README.zh.md"] > 20
    assert found["minirlhf/tools/README.md"] > 12 and found["minirlhf/experiments/README.md"] > 10
    sample = "    python a.py \\\n        --b c   d\n```\npip x && pytest   y\n```\nor `pytest z`, or `p`, not python"
    assert commands(sample) == ["python a.py --b c", "pip x", "pytest", "pytest z"]


@each_readme
def test_every_option_named_exists(path, known):
    for span in inline(path.read_text(encoding="utf-8")):
        assert {word for word in span.split() if re.match("--[a-z]", word)} <= known, span


@each_readme
def test_every_file_and_module_named_exists(path):
    text = path.read_text(encoding="utf-8")
    own = {line[2:] for line in code(text) if re.fullmatch(r"# \w+\.py", line)}  # scripts that the README prints
    for name in {name.partition("::")[0] for name in inline(text)} - own:
        if re.fullmatch(r"minirlhf(\.\w+)+", name):
            module = ROOT / name.replace(".", "/")
            assert module.is_dir() or module.with_suffix(".py").exists(), name
        is_file = re.fullmatch(r"[\w./-]+\.(py|md|svg|html|json|jsonl|txt)", name) and not name.startswith("out/")
        if is_file and ("/" in name or name.endswith(".py")):
            places = (path.parent, ROOT, ROOT / "minirlhf", ROOT / "tests")
            assert any((place / name).exists() for place in places), name


@each_readme
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            found = path.parent / file if file else path
            assert found.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {slug(heading) for heading in headings}, target


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_names_each_of_its_files(wing):
    words = set(re.findall(r"\w+", (wing / "README.md").read_text(encoding="utf-8")))
    assert {path.stem for path in wing.glob("*.py") if path.stem != "__init__"} - words == set()


def test_the_tests_that_a_file_names_are_there():
    files = [*ROOT.glob("*.py"), *ROOT.glob("minirlhf/**/*.py")]
    named = {(path.name, test) for path in files for test in re.findall(r"tests/[\w/]+\.py", path.read_text("utf-8"))}
    assert len(named) > 80 and {x for x in named if not (ROOT / x[1]).exists()} == set()


def test_the_map_says_which_wing_may_import_which():
    text = (ROOT / "minirlhf" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(\w+/README.md\) \| .* \|(.*)\|$", text, re.MULTILINE)
    assert [(wing, named.replace(",", "").split()) for wing, named in rows] == [
        (wing, named.split()) for wing, named in MAY_IMPORT.items()
    ]


def test_the_first_50_lines_name_the_files_of_model_losses_rollout_and_ppo():
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:50])
    for name in ("lm/model.py", "rl/losses.py", "rl/rollout.py", "rl/ppo.py"):
        assert f"`minirlhf/{name}`" in first


def test_the_readme_has_at_most_250_lines_and_the_two_commands_that_set_everything_up():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250 and set(SET_UP) <= set(lines)


def test_line_counts_are_right_to_a_tenth():
    rows = re.findall(r"`([\w/]+\.py)` \| (\d+) \|", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) == 20
    for name, said in rows:
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        assert abs(int(said) - lines) <= lines / 10, f"{name}: {said} lines said, it has {lines}"


def test_the_table_of_mutants_is_that_of_the_code():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    assert f"\n{markdown()}\n" in text and f"{len(MUTANTS)} of {len(MUTANTS)}" in text


def test_the_summary_is_the_mean_of_the_seeds():
    """README.md's table of results against the rows of experiments/README.md that it sums up."""
    def rows(path: Path, cells: int) -> list[list[str]]:
        lines = path.read_text(encoding="utf-8").splitlines()
        split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        return [row for row in split if len(row) == cells]

    def number(cell: str) -> float:
        return float(cell.split()[0])

    seeds = [row for row in rows(ROOT / "minirlhf" / "experiments" / "README.md", 9) if row[1] in ("0", "1", "2")]
    summary = [row for row in rows(ROOT / "README.md", 4) if re.fullmatch(r"0\.\d{3}", row[1])]
    assert len(seeds) == 15 and len(summary) == 5
    for task, *said in summary:
        of_task = [row for row in seeds if row[0] == task]
        means = [sum(number(row[i]) for row in of_task) / 3 for i in (2, 3, 8)]  # SFT, PPO, SFT continued
        assert said == [f"{mean:.3f}" for mean in means], task


def test_the_chinese_page_has_no_figure_that_no_english_readme_has():
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in READMES}
    ours = re.findall(r"(?<![\w.])\d+(?:[.,]\d+)+", texts.pop("minirlhf/README.zh.md"))
    english = "\n".join(texts.values())
    assert len(ours) > 60
    known = lambda x: re.search(rf"(?<![\d.])0?{re.escape(x.removeprefix('0'))}(?!\d)", english)
    assert [x for x in ours if not known(x)] == []
