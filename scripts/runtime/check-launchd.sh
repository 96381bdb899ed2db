#!/bin/sh
# Check what is installed, without asking a program.
baa="$(dirname -- "$0")/../../.venv/bin/baa"; [ -x "$baa" ] || baa=baa; exec "$baa" service check "$@"
