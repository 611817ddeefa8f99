"""The documentation: its snippets run, its commands, links and variables exist, its pages say what
they have to say.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import re
import shlex
import tokenize
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkern.cli import COMMANDS
from seqkern.core.dtypes import dtype_name
from tests.markdown_pages import PAGES, ROOT, SITE, blocks, name
from tests.parity import TINY

README, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()

# ---- snippets ----

WITH_PYTHON = [
    page
    for page in PAGES
    if page != KOREAN and any(block.language == "python" for block in blocks(page))
]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a page's snippets one after the other in one namespace. A block of text right after a
    snippet is what it prints."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    namespace: dict[str, Any] = {"__name__": "snippets"}
    printed = io.StringIO()
    for block in blocks(page):
        if block.language == "python":
            printed = io.StringIO()
            # Empty lines in front, so that a traceback has the page's line numbers.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
        elif block.language == "text" and block.after_code:
            same = doctest.OutputChecker().check_output(
                block.text, printed.getvalue(), doctest.ELLIPSIS
            )
            assert same, f"{name(page)}, line {block.line}: it prints\n{printed.getvalue()}"


def test_output_is_compared(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n1\n```\nprose\n```text\n2\n```\n")
    assert [block.after_code for block in blocks(page)] == [False, True, False]
    assert [block.line for block in blocks(page)] == [2, 6, 10]


# ---- commands ----

TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
VARIABLES = set(re.findall(r"^(\w+) [?:]?=", MAKEFILE, re.M))
EXTRAS = set(
    re.findall(r"^(\w+) = \[", PYPROJECT.partition("[project.optional-dependencies]")[2], re.M)
)


def check_command(line: str) -> None:
    """Fails where a command of a shell snippet does not exist, or not with these options."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)  # for this command's environment; see test_variables_exist
    match words:
        case []:
            pass
        case ["make", *rest]:
            for word in rest:
                variable, sign, _ = word.partition("=")
                assert (variable in VARIABLES) if sign else (word in TARGETS), word
        case ["pip", "install", *rest]:
            for extra in re.findall(r"\[(\w+)\]", " ".join(rest)):
                assert extra in EXTRAS, extra
        case ["python", "-m", "seqkern", command, *rest]:
            parser = argparse.ArgumentParser()
            COMMANDS[command].add_arguments(parser)
            parser.parse_args(rest)
        case ["python", "-m", module, *rest]:
            source = ROOT.joinpath(*module.split("."))
            source = source / "__main__.py" if source.is_dir() else source.with_suffix(".py")
            text = source.read_text()
            for word in rest:
                if word.startswith("-"):
                    assert f'"{word}"' in text, f"{module} has no option {word}"
        case ["python", script]:
            assert (ROOT / script).is_file(), script
        case [".venv/bin/pre-commit", "install"]:
            assert (ROOT / ".pre-commit-config.yaml").is_file()
        case _:
            raise AssertionError(f"nothing is known of {words[0]!r}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language == "sh":
            for line in block.text.splitlines():
                check_command(line)
    text = page.read_text()
    for target in re.findall(r"`(?:[A-Z_0-9]+=\S+ )*make ([a-z-]+)", text):
        assert target in TARGETS, target
    for command in re.findall(r"python -m seqkern ([a-z]+)", text):
        assert command in COMMANDS, command


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "make test NOTHING=1",
        "pip install '.[nothing]'",
        "python -m seqkern vectors text.txt --out v.txt --nothing",
        "python -m bench.report build/bench.json --nothing",
        "python examples/nothing.py",
        "nothing",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit, KeyError)):
        check_command(line)


# ---- what else pages name ----


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def environment_variables(folders: list[str]) -> set[str]:
    """The variables SEQKERN_... that Python code reads."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = (re.findall(r'"(SEQKERN_\w+)"', path.read_text()) for path in files)
    return {variable for names in found for variable in names}


def test_variables_exist() -> None:
    """What pages name is read somewhere, and what users may set is on the page about it."""
    read = environment_variables(["seqkern", "build_tools", "tests", "bench"])
    named = {v for page in PAGES for v in re.findall(r"\bSEQKERN_[A-Z_]*[A-Z]", page.read_text())}
    assert named <= read, named - read
    install = (ROOT / "docs" / "install.md").read_text()
    for variable in environment_variables(["seqkern", "build_tools"]):
        assert f"`{variable}`" in install, f"docs/install.md does not say what {variable} is"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page: Path) -> None:
    """Paths from the root, and names of source files, which have to be somewhere."""
    tops = "bench|build_tools|csrc|docs|examples|seqkern|tests"
    text = page.read_text()
    for path in re.findall(rf"`((?:{tops})/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
    sources = {path.name for top in tops.split("|") for path in (ROOT / top).rglob("*.*")}
    for file in re.findall(r"`(?:(?!torch/)\w+/)*(\w+\.(?:py|h|cuh|cu|cpp))`", text):
        assert file in sources or (ROOT / file).exists(), file


def test_tolerances_are_those_of_the_tests() -> None:
    text = (ROOT / "docs" / "accuracy.md").read_text()
    rows = re.findall(r"^\| ([\w, ]+) \| ([\d.e-]+) \|$", text, re.M)
    told = {dtype: float(atol) for dtypes, atol in rows for dtype in dtypes.split(", ")}
    assert told == {dtype_name(dtype): atol for dtype, atol in TINY.items()}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_that_speak_of_gpus_say_first_what_was_measured(page: Path) -> None:
    text = page.read_text()
    if re.search(r"\b(GPU|CUDA|cuDNN|Triton|cuda|triton)", re.sub(r"<!--.*?-->", "", text)):
        begin = text.find("<!-- made by python -m docs: gpu status")
        assert 0 <= begin < (text + "\n## ").find("\n## "), (
            "it lacks the block 'gpu status' at its top"
        )


def test_every_page_is_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in SITE:
        parts = page.relative_to(ROOT / "docs").with_suffix("").parts
        where = {"api": ROOT / "docs/api/index.md", "results": ROOT / "docs/performance.md"}
        if parts in (("index",), ("api", "index")):
            continue
        contents = where[parts[0]].read_text() if len(parts) > 1 else index
        names = {"/".join(parts), parts[-1]}
        entries = re.sub(r"^.* <(.+)>$", r"\1", contents, flags=re.M)  # "Title <page>"
        assert names & set(entries.splitlines()), f"{name(page)} is in no list of contents"


# ---- the READMEs ----

MOST_WORDS = 700


@pytest.mark.parametrize("page", [README, KOREAN], ids=name)
def test_readme_is_short(page: Path) -> None:
    assert len(page.read_text().split()) <= MOST_WORDS


def code_without_comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]


def test_korean_readme_is_the_same() -> None:
    """The same headings, snippets, links and tables; comments and prose are translated."""

    def outline(page: Path) -> list[Any]:
        text = page.read_text()
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        snippets = [
            code_without_comments(block.text)
            if block.language == "python"
            else [shlex.split(line, comments=True) for line in block.text.splitlines()]
            for block in blocks(page)
        ]
        return [
            [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)],
            [block.language for block in blocks(page)],
            snippets,
            re.findall(r"\]\((.+?)\)", prose)[1:],  # the first leads to the other language
            re.findall(r"\*\*[\d.]+\*\*", prose),
            [line.count("|") for line in prose.splitlines() if line.startswith("|")],
        ]

    for english, korean in zip(outline(README), outline(KOREAN), strict=True):
        assert english == korean
    hangul = re.findall(r"[가-힣]", KOREAN.read_text())
    assert len(hangul) > 500


def test_readme_has_a_plot_a_table_and_three_snippets() -> None:
    text = README.read_text()
    assert re.findall(r"!\[.+?\]\((.+?)\)", text) == ["docs/images/speed.svg"]
    assert "<!-- made by python -m docs: speed -->" in text
    assert [block.language for block in blocks(README)].count("python") == 3
    assert {"make demo", "make test"} <= set(re.findall(r"make \w+", text))
