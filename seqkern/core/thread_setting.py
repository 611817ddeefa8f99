"""A setting of a thread: until the next choice, or inside a `with` block."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class ThreadSetting(threading.local, Generic[T]):
    """A value for each thread; a thread that has set none has the default."""

    def __init__(self, default: T) -> None:  # called once in each thread that reads it
        self.value = default
        # The choice just made, with the value that it replaced: a `with` on it restores that one.
        self.latest: tuple[Choice[T], T] | None = None
        self.to_restore: list[T] = []  # of the `with` blocks that this thread is in


class Choice(Generic[T]):
    """Takes effect when it is made; as a context manager until the end of the block. It may be
    entered again, in any thread."""

    def __init__(self, setting: ThreadSetting[T], value: T) -> None:
        self._setting, self._value = setting, value
        setting.latest = (self, setting.value)
        setting.value = value

    def __enter__(self) -> Self:
        setting = self._setting
        latest, setting.latest = setting.latest, None
        made_here = latest is not None and latest[0] is self
        setting.to_restore.append(latest[1] if latest and made_here else setting.value)
        setting.value = self._value
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._setting.latest = None
        self._setting.value = self._setting.to_restore.pop()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._value!r})"
