"""status-api: the node at a glance, read-only. It holds no database, no write path and only the read token."""
