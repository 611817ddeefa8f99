"""What every page that speaks of GPUs says first: whether anything was measured on one."""

from __future__ import annotations

import json

from docs.making.results import FOLDER


def measured_on() -> list[str]:
    """The GPUs of which `bench/results` holds a record of `bench.gpu`."""
    gpus = set()
    for file in FOLDER.glob("*/*gpu*.json"):
        gpus.add(json.loads(file.read_text())["gpu"])
    return sorted(gpus)


def english() -> str:
    gpus = measured_on()
    if gpus:
        return f"> **GPU status:** measured on {', '.join(gpus)}; see the performance page.\n"
    return (
        "> **GPU status: not yet measured on a GPU.** The GPU kernels compile for sm_80, sm_90 and "
        "sm_100\n> and pass their tests in Triton's interpreter and on an emulator; no speed is "
        "claimed for them.\n"
    )


def korean() -> str:
    gpus = measured_on()
    if gpus:
        return f"> **GPU 상태:** {', '.join(gpus)}에서 측정했습니다. 성능 문서를 참고하세요.\n"
    return (
        "> **GPU 상태: 아직 GPU에서 측정하지 않았습니다.** GPU 커널은 sm_80, sm_90, sm_100용으로 "
        "컴파일되고\n> Triton 인터프리터와 에뮬레이터에서 테스트를 통과했지만, "
        "속도는 아직 알 수 없습니다.\n"
    )
