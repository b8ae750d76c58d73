"""Where the command line prints to: words that get lost stop no work."""

import os


class Stream:
    """Standard output or error, even if its reader leaves (``| head``), its disk is full, or its terminal is ASCII.

    ``failure`` says why it cannot be written to any more; it is empty where that is nobody's fault.
    """

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 (None where it was closed; open to the end)
        self.failure = ""

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self.stream.flush()
        except OSError as error:
            self.failure = "" if isinstance(error, BrokenPipeError) else error.strerror
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)
