"""The real Codex with somebody who writes in between: what stands between keeper and Codex, and is heard as the child.

noisy_codex.py FIFO CODEX app-server …: passes everything on, whole lines from Codex to its own stdout. What is written
to the FIFO comes between two of these lines. Its first line is `say` (the rest goes to stdout), `complain` (to stderr),
`die` or `leave` (to stdout, and then it is the end of it and of Codex, with 9 or with 0). Standard library only: it
runs with -I -S.
"""

import os
import signal
import subprocess
import sys
import threading

CHUNK = 65536
ENDS = {b"die": 9, b"leave": 0}
writing = threading.Lock()


def write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pass_lines(source: int) -> None:
    rest = b""
    while chunk := os.read(source, CHUNK):
        whole, newline, rest_of_chunk = chunk.rpartition(b"\n")
        if not newline:
            rest += chunk
            continue
        with writing:
            write(1, rest + whole + newline)
        rest = rest_of_chunk


def pass_all(target: int) -> None:
    while chunk := os.read(0, CHUNK):
        write(target, chunk)
    os.close(target)


def interrupt(path: str, codex: "subprocess.Popen[bytes]") -> None:
    while True:
        with open(path, "rb") as fifo:
            verb = fifo.readline().strip()
            with writing:
                while chunk := fifo.read(CHUNK):
                    write(2 if verb == b"complain" else 1, chunk)
                if verb in ENDS:
                    codex.kill()
                    os._exit(ENDS[verb])


def main() -> None:
    path, *command = sys.argv[1:]
    codex = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert codex.stdin is not None
    assert codex.stdout is not None
    signal.signal(signal.SIGTERM, lambda *_: codex.terminate())
    for job, argument in ((pass_all, codex.stdin.fileno()), (pass_lines, codex.stdout.fileno())):
        threading.Thread(target=job, args=(argument,), daemon=True).start()
    threading.Thread(target=interrupt, args=(path, codex), daemon=True).start()
    os._exit(codex.wait() & 255)


if __name__ == "__main__":
    main()
