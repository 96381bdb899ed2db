"""The conductor: the task queue's leader. It reaches Codex only through the node's codexd."""
