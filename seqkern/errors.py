"""Errors that are the user's to put right."""


class UserError(Exception):
    """Something that the person at the command line can put right.

    Its message is one sentence that says what to do; the command line prints it without a
    traceback.
    """
