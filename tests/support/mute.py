"""The real Codex with a hole in its ear: requests of the method that the file `muted` beside it names do not reach it.

python -I -S mute.py CODEX FOLDER app-server …
"""

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    codex, folder, *arguments = sys.argv[1:]
    with subprocess.Popen([codex, *arguments], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for line in sys.stdin.buffer:
            muted = Path(folder, "muted")
            if not (muted.exists() and f'"method":"{muted.read_text()}"'.encode() in line):
                process.stdin.write(line)
                process.stdin.flush()
        process.stdin.close()
    sys.exit(process.returncode)
