"""The version, in one place: pyproject.toml has it too, static, because uv asks for it."""

__version__ = "0.1.0"
