"""What setup.py needs to build the libraries: one question answered by each module."""


class BuildError(SystemExit):
    """Ends the build with one sentence for the user, and no traceback above it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"seqkern: {sentence}")
