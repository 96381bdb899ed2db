"""The door that all three servers share: bind, guard, limits, envelope, tokens, serve. It knows no route of theirs."""
