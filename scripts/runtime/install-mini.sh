#!/bin/sh
# Make this machine a node: install, start and check the default set of services.
baa="$(dirname -- "$0")/../../.venv/bin/baa"; [ -x "$baa" ] || baa=baa; exec "$baa" node install "$@"
