#!/bin/sh
# Restart services; running turns go on.
baa="$(dirname -- "$0")/../../.venv/bin/baa"; [ -x "$baa" ] || baa=baa; exec "$baa" service restart "$@"
