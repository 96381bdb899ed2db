"""codexd: the only place where Codex runs."""
