"""What `python -m build_tools.wheel_check` says of a wheel."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from build_tools import wheel_check
from seqkern.core import library

needs_readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is missing")

REPORT = """
Version symbols section '.gnu.version' contains 3 entries:
  000:   0 (*local*)       2 (GLIBCXX_3.4.30)   5 (GLIBC_2.99)

Version needs section '.gnu.version_r' contains 2 entries:
 Addr: 0x0000000000003000  Offset: 0x00003000  Link: 4 (.dynstr)
  000000: Version: 1  File: libc.so.6  Cnt: 2
  0x0010:   Name: GLIBC_2.9  Flags: none  Version: 16
  0x0020:   Name: GLIBC_2.14  Flags: none  Version: 17
  0x0030: Version: 1  File: libstdc++.so.6  Cnt: 1
  0x0040:   Name: GLIBCXX_3.4.21  Flags: none  Version: 10
"""


def wheel(folder: Path, **files: Path) -> Path:
    path = folder / "seqkern-1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("seqkern/__init__.py", "")
        for name, source in files.items():
            archive.write(source, f"seqkern/{name}.so")
    return path


def test_the_newest_version_of_each_name_and_only_what_is_needed():
    assert wheel_check.newest_needed(REPORT) == {"GLIBC": (2, 14), "GLIBCXX": (3, 4, 21)}
    packed = REPORT.replace("GLIBC_2.9 ", "GLIBC_ABI_DT_RELR ")
    assert wheel_check.newest_needed(packed)["GLIBC"] == (2, 36)


@needs_readelf
def test_what_is_too_new_is_named(tmp_path, monkeypatch, capsys):
    path = wheel(tmp_path, _cpu=library.cpu.path)
    needed, _ = wheel_check.check(path)
    glibc = needed["GLIBC"]
    assert glibc >= (2, 2, 5)
    monkeypatch.setattr(wheel_check, "NEWEST", {"GLIBC": glibc})
    assert wheel_check.main([str(path)]) == 0
    printed = capsys.readouterr()
    newest = ", ".join(wheel_check.said(*item) for item in sorted(needed.items()))
    assert f"MiB; needs {newest}\n" in printed.out
    monkeypatch.setattr(wheel_check, "NEWEST", {"GLIBC": (2, 2, 4)})
    assert wheel_check.main([str(path)]) == 1
    needs = f"seqkern/_cpu.so needs {wheel_check.said('GLIBC', glibc)}"
    assert f"{needs}; manylinux_2_28 has at most GLIBC_2.2.4\n" in capsys.readouterr().err


@needs_readelf
def test_what_is_too_large_or_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wheel_check, "LARGEST", 100)
    assert wheel_check.main([str(wheel(tmp_path))]) == 1
    told = capsys.readouterr().err
    assert "there is no shared library in it" in told and "it has 0.0 MiB, more than 0" in told
    assert wheel_check.main([]) == 2


def test_what_is_no_wheel_is_said_in_a_sentence(tmp_path, capsys):
    missing, text = tmp_path / "missing.whl", tmp_path / "text.whl"
    text.write_text("no archive")
    assert wheel_check.main([str(missing), str(text)]) == 1
    assert capsys.readouterr().err == (
        f"{missing}: there is no such file\n{text}: it is no wheel, which would be a zip archive\n"
    )
