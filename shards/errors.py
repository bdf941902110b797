"""The one exception for what a user can mend."""


class InputError(Exception):
    """A file, row, key or value that the user gave cannot be used.

    The message names the file, the row or key, the value, and the remedy; the command line prints it without a
    traceback.
    """


class UnreadablePatchError(InputError):
    """A patch that one rank was to read cannot be read. Only that rank knows, so that rank must say so."""
