#!/bin/sh
# Install services: [--service S]... [--all-services] [--control-api-base URL]
baa="$(dirname -- "$0")/../../.venv/bin/baa"; [ -x "$baa" ] || baa=baa; exec "$baa" service install "$@"
