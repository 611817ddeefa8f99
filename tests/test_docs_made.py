"""What ``python -m docs`` makes: it is up to date, and comes from the records and the imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.__main__ import main
from docs.making import ROOT, architecture, blocks, charts, imports, made_files, public, results

RECORDS = list(results.FOLDER.glob("*/*.json"))
pytestmark = pytest.mark.skipif(not RECORDS, reason="a source archive holds no records")


# ---- the files ----


def test_made_files_are_up_to_date() -> None:
    outdated = [
        path.relative_to(ROOT).as_posix()
        for path, text in made_files().items()
        if not path.exists() or path.read_text() != text
    ]
    assert not outdated, f"python -m docs makes them anew: {', '.join(outdated)}"


def test_check_writes_nothing_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr("docs.__main__.ROOT", tmp_path)
    monkeypatch.setattr("docs.__main__.made_files", lambda: {page: "new"})
    assert main(["--check"]) == 1
    assert page.read_text() == "old" and capsys.readouterr().out == "outdated: page.md\n"
    assert main([]) == 0
    assert page.read_text() == "new" and capsys.readouterr().out == "written: page.md\n"
    assert main(["--check"]) == 0


def test_every_chart_is_shown() -> None:
    shown = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for name in [*charts.CHARTS, "architecture"]:
        assert f"(images/{name}.svg)" in shown


# ---- blocks ----


def test_a_block_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blocks.MAKERS, "trial", lambda: "new\n")
    text = "a\n<!-- made by python -m docs: trial -->\nold\n<!-- made: end -->\nb\n"
    assert blocks.names(text) == ["trial"]
    assert blocks.filled(text, "page.md") == text.replace("old", "new")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- made by python -m docs: speed -->\nold\n", "page.md: a block has no end"),
        (
            "<!-- made by python -m docs: nothing -->\n<!-- made: end -->\n",
            "page.md: there is no block 'nothing', only: gpu status",
        ),
    ],
)
def test_a_wrong_block_is_an_error(text: str, message: str) -> None:
    with pytest.raises(blocks.UnknownBlock, match=message):
        blocks.filled(text, "page.md")


def test_every_block_is_in_some_page() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    used = {name for page in pages for name in blocks.names(page.read_text())}
    assert used == set(blocks.MAKERS)


@pytest.mark.parametrize("machine", results.MACHINES)
def test_the_files_of_a_report_exist(machine: str) -> None:
    assert results.MACHINES[machine].files()


def test_every_folder_of_results_is_documented() -> None:
    folders = {folder.name for folder in results.FOLDER.iterdir() if folder.is_dir()}
    assert folders == {machine.folder for machine in results.MACHINES.values()}
    for name, machine in results.MACHINES.items():
        assert machine.folder in (ROOT / "docs" / "results" / f"{name}.md").read_text()


def test_gpu_status_follows_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docs.making import gpu_status

    monkeypatch.setattr(gpu_status, "FOLDER", tmp_path)
    assert "not yet measured" in gpu_status.english()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bench-gpu.json").write_text('{"gpu": "A GPU", "results": []}')
    assert "measured on A GPU" in gpu_status.english() and "A GPU" in gpu_status.korean()


# ---- the architecture ----


@pytest.fixture
def package(tmp_path: Path) -> Path:
    files = {
        "__init__.py": "from toy.top import use\n",
        "top.py": "from toy.high import a\n\ndef use():\n    from .low import c\n",
        "high/__init__.py": "",
        "high/a.py": "import toy.middle.b\n",
        "high/kernels/__init__.py": "",
        "high/kernels/k.py": "from ...low.c import value\nimport math\n",
        "middle/__init__.py": "",
        "middle/b.py": "from toy.low import c\n",
        "low/__init__.py": "",
        "low/c.py": "value = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "toy"


def test_imports_are_read(package: Path) -> None:
    graph = imports.parts(package)
    assert graph == {
        "high": {"middle"},
        "high/kernels": {"low"},
        "low": set(),
        "middle": {"low"},
        "top": {"high", "low"},
        "toy": {"top"},
    }
    assert imports.without_shortcuts(graph)["top"] == {"high"}
    levels = imports.levels(graph)
    assert levels == {"low": 0, "middle": 1, "high/kernels": 1, "high": 2, "top": 3, "toy": 4}


def test_parts_that_import_each_other_are_one(package: Path) -> None:
    (package / "low" / "c.py").write_text("import toy.high.a\n")
    graph = imports.condensed(imports.parts(package))
    assert graph["top"] == {"high, low, middle"}
    assert graph["high, low, middle"] == set()
    assert "high, low, middle" in architecture.picture(package)


def test_the_picture_follows_the_imports(package: Path) -> None:
    before = architecture.picture(package)
    assert before == architecture.picture(package)
    assert before.count("<rect") == 1 + 6 and before.count("marker-end") == 5
    (package / "middle" / "b.py").write_text("")
    assert architecture.picture(package) != before


def test_boxes_do_not_overlap() -> None:
    """In the picture of seqkern itself."""
    import re

    boxes = re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', architecture.picture(ROOT / "seqkern")
    )
    rows: dict[str, list[tuple[float, float]]] = {}
    for x, y, width in boxes:
        rows.setdefault(y, []).append((float(x), float(x) + float(width)))
    assert len(boxes) > 10
    for row in map(sorted, rows.values()):
        assert all(end < begin for (_, end), (begin, _) in zip(row, row[1:], strict=False))


# ---- the reference ----


def test_every_public_module_has_a_page() -> None:
    pages = [path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")]
    for module in public.MODULES:
        assert sum(f".. public-names:: {module}\n" in page for page in pages) == 1, module


def test_the_public_modules_are_known() -> None:
    """Every package that says what is public in it, but for the demo, whose functions are the
    command line's."""
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "seqkern").rglob("__init__.py")
        if "__all__ = " in path.read_text()
    }
    assert packages - {"seqkern.demo"} == set(public.MODULES) - {"seqkern.nn.functional"}


def test_a_missing_name_is_noticed() -> None:
    full = {f"{module}.{name}" for module in public.MODULES for name in public.names(module)}
    assert public.missing(full) == []
    assert public.missing(full - {"seqkern.nn.LSTM"}) == ["seqkern.nn.LSTM"]
    assert {"seqkern.swap", "seqkern.Word2Vec", "seqkern.nn.functional.lstm"} <= full
