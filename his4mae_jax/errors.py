"""The one exception that means "the input is at fault, and here is the remedy"."""


class UserError(Exception):
    """Bad input: one line that names the file or key and says what to do.

    `main` prints the message alone, without a traceback, and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))
