#!/bin/sh
# What the service manager says, and what the programs answer unless --skip-http.
baa="$(dirname -- "$0")/../../.venv/bin/baa"; [ -x "$baa" ] || baa=baa; exec "$baa" service status "$@"
