#!/bin/sh
# Check the node: static checks and live probes.
baa="$(dirname -- "$0")/../../.venv/bin/baa"; [ -x "$baa" ] || baa=baa; exec "$baa" node check "$@"
