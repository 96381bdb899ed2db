"""A child that misbehaves: a real process that does what its arguments say, one after another, and then ends with 0.

python -I -S misbehaving_child.py ignore=TERM say=hello echo flood-stdout=1000000 exit=3
"""

import fcntl
import os
import signal
import sys
from collections.abc import Callable

PATTERN = b"0123456789abcdef" * 4096


def write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def flood(descriptor: int, size: int) -> None:
    while size > 0:
        write(descriptor, PATTERN[:size])
        size -= len(PATTERN)


def say(text: str) -> None:
    write(1, text.encode() + b"\n")


def echo(_: str) -> None:
    """Says back what it is told, until the end of its stdin."""
    while chunk := os.read(0, 65536):
        write(1, chunk)


def read(_: str) -> None:
    """Waits for one line, byte by byte: what follows it stays in the pipe."""
    while os.read(0, 1) not in {b"\n", b""}:
        pass


def hang(_: str) -> None:
    """Reads nothing, and waits to be killed."""
    while True:
        signal.pause()


def wait(name: str) -> None:
    """Says so, and waits for a signal."""
    wanted = {signal.Signals[f"SIG{name}"]}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    say("waiting")
    signal.sigwait(wanted)


def widen(size: str) -> None:
    """Makes the pipe of its stdout hold more than the keeper reads at once."""
    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, int(size))


def leave_grandchild(_: str) -> None:
    """A process in a session of its own, which holds our stdout open, and which we disown."""
    report, report_in = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if pid := os.fork():
            write(report_in, str(pid).encode())
            os._exit(0)
        hang("")
    os.wait()
    say(f"grandchild {os.read(report, 32).decode()}")


def make_zombies(count: str) -> None:
    """Orphans that end at once, and that somebody has to reap."""
    for _ in range(int(count)):
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.wait()


def tell_surroundings(_: str) -> None:
    say(f"descriptors {sorted(int(name) for name in os.listdir('/proc/self/fd'))[:-1]}")
    say(f"cwd {os.getcwd()}")
    say(f"umask {os.umask(0):o}")
    say(f"leads its session: {os.getsid(0) == os.getpid()}")
    say(f"environment {sorted(os.environ)}")


def die(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[f"SIG{name}"])


def touch(path: str) -> None:
    with open(path, "x"):
        pass


VERBS: dict[str, Callable[[str], object]] = {
    "ignore": lambda name: signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN),
    "say": say,
    "complain": lambda text: write(2, text.encode()),
    "echo": echo,
    "read": read,
    "wait": wait,
    "widen": widen,
    "touch": touch,
    "hang": hang,
    "flood-stdout": lambda size: flood(1, int(size)),
    "flood-stderr": lambda size: flood(2, int(size)),
    "close": lambda descriptor: os.close(int(descriptor)),
    "leave-grandchild": leave_grandchild,
    "make-zombies": make_zombies,
    "tell-surroundings": tell_surroundings,
    "exit": lambda code: os._exit(int(code)),
    "die": die,
}

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        verb, _, value = argument.partition("=")
        VERBS[verb](value)
