"""The command line, as somebody at a terminal sees it."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

MINIBERT = [sys.executable, "-m", "minibert"]


def on_terminal(*arguments):
    """What the command prints when its output is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen([*MINIBERT, *arguments], stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode().replace("\r\n", "\n")
